"""As function.py, of tokens in groups, each with a weight of its own."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ..column_groups import padded_offsets
from ..ops.grouped import m_grouped_fp8_gemm_nt_offsets
from ..ops.k_grouped import k_grouped_fp8_gemm_nt
from ..quantize import quantize_both_ways
from . import gradients, operands, weights
from .weights import KeptWeight, Operand


def linear(x: Tensor, weight: Tensor, offsets: Tensor, kept: KeptWeight) -> Tensor:
    """Rows of group g times ``weight[g].T``; rows of no group become zero.

    Args:
        x: ``[T, K]``, bf16, fp16 or fp32; under autocast it is cast as :class:`torch.nn.Linear` does.
        weight: ``[G, N, K]``, of any of these.
        offsets: int32 ``[G]``, as of :func:`cute_gemm.m_grouped_fp8_gemm_nt_offsets`.
        kept: of the weight.

    Returns:
        ``[T, N]`` of the dtype of ``x``.
    """
    if torch.compiler.is_compiling() and hasattr(weight, "main_grad"):
        from . import untraced

        return untraced.grouped_linear(x, weight, offsets, kept)
    x = operands.as_autocast(x)
    place = None if torch.compiler.is_compiling() else kept
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        made: Tensor = _GroupedLinear.apply(x, weight, offsets, place)
        return made
    with torch.no_grad():
        return _multiply(operands.along_features(x), weights.rows(place, weight), offsets, x.dtype)


def _multiply(lhs: Operand, rhs: Operand, offsets: Tensor, dtype: torch.dtype) -> Tensor:
    stored = operands.product_dtype(dtype)
    return m_grouped_fp8_gemm_nt_offsets(lhs, rhs, offsets, out_dtype=stored, fill=0).to(dtype)


def _along_both(x: Tensor, begins: Tensor, ends: Tensor) -> tuple[Operand, Operand]:
    """Tokens 1x128 along features, and along tokens of each group, which are padded from ``begins`` on."""
    return quantize_both_ways(x, m_major_scales=True, offsets=begins, ends=ends)


def _over_tokens(
    dy_t: Operand, x_t: Operand, begins: Tensor, out: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Gradients of all weights, of ``dtype``; added to ``out`` if there is one."""
    return k_grouped_fp8_gemm_nt(dy_t, x_t, begins, out, out_dtype=dtype, accumulate=out is not None)


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, offsets: Tensor, kept: KeptWeight | None) -> Tensor:
        saved: tuple[Tensor, ...] = ()
        if ctx.needs_input_grad[1]:
            begins = padded_offsets(offsets, x.shape[0])
            along_features, along_tokens = _along_both(x, begins, offsets)
            saved = begins, *along_tokens
        else:
            along_features = operands.along_features(x)
        y = _multiply(along_features, weights.rows(kept, weight), offsets, x.dtype)
        ctx.save_for_backward(weight, offsets, *saved)
        ctx.dtype, ctx.kept = x.dtype, kept
        # Hooks of saved tensors may give another tensor back, which has no `main_grad`.
        ctx.parameter = None if kept is None else weight
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        gradients.require_first()
        weight, offsets, *saved = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        dx = dw = None
        with torch.no_grad():
            dy = dy.contiguous()
            if needs_weight:
                begins, *along_tokens = saved
                along_features, dy_t = _along_both(dy, begins, offsets)
                x_t = tuple(along_tokens)
                product = functools.partial(_over_tokens, dy_t, x_t, begins)
                dw = gradients.deliver(weight, ctx.parameter, product)
            else:
                along_features = operands.along_features(dy)
            if needs_x:
                rhs = weights.columns(ctx.kept, weight if ctx.parameter is None else ctx.parameter)
                dx = _multiply(along_features, rhs, offsets, ctx.dtype)
        return dx, dw, None, None
