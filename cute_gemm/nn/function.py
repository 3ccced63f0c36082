"""A linear layer's three products, as autograd calls them.

forward   y  = x @ W.T         x 1x128 along inputs     W 128x128
dgrad     dx = dy @ W          dy 1x128 along outputs   the same FP8 values of W, transposed
wgrad     dW = dy.T @ x        both 1x128 along tokens

Of x the FP8 values along tokens are kept for wgrad: half of what bf16 takes.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from .. import epilogue
from ..ops.dense import fp8_gemm_nt
from . import gradients, operands, weights
from .weights import KeptWeight, Operand


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, kept: KeptWeight) -> Tensor:
    """``x @ weight.T + bias`` by FP8 products.

    Args:
        x: ``[..., K]``, bf16, fp16 or fp32; under autocast it is cast as :class:`torch.nn.Linear` does.
        weight: ``[N, K]``, of any of these.
        bias: ``[N]``, of any of these, or None.
        kept: of the weight.

    Returns:
        ``[..., N]`` of the dtype of ``x``.
    """
    if torch.compiler.is_compiling() and hasattr(weight, "main_grad"):
        from . import untraced

        return untraced.linear(x, weight, bias, kept)
    x = operands.as_autocast(x)
    given = x, weight, *(() if bias is None else (bias,))
    # What is kept has no place in a graph: the same values would be another tensor each time.
    place = None if torch.compiler.is_compiling() else kept
    if torch.is_grad_enabled() and any(each.requires_grad for each in given):
        made: Tensor = _Linear.apply(x, weight, bias, place)
        return made
    with torch.no_grad():
        return _multiply(operands.along_features(_rows(x)), weights.rows(place, weight), bias, x)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _over_tokens(dy_t: Operand, x_t: Operand, out: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The gradient of a weight, of ``dtype``; added to ``out`` if there is one."""
    return fp8_gemm_nt(dy_t, x_t, out, out_dtype=dtype, accumulate=out is not None)


def _multiply(lhs: Operand, rhs: Operand, bias: Tensor | None, like: Tensor) -> Tensor:
    """The product, with dimensions in front and a dtype like those of a tensor."""
    added = None if bias is None else epilogue.bias(bias)
    made = fp8_gemm_nt(lhs, rhs, out_dtype=operands.product_dtype(like.dtype), epilogue=added)
    # To autograd and to FSDP2 the result is to be no view, which may not be changed in place.
    return made.to(like.dtype).reshape(*like.shape[:-1], made.shape[-1]).detach()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, kept: KeptWeight | None) -> Tensor:
        if ctx.needs_input_grad[1]:
            lhs, along_tokens = operands.along_both(_rows(x))
            ctx.save_for_backward(weight, *along_tokens)
        else:
            lhs = operands.along_features(_rows(x))
            ctx.save_for_backward(weight)
        ctx.kept, ctx.bias_dtype = kept, None if bias is None else bias.dtype
        # Hooks of saved tensors may give another tensor back, which has no `main_grad`.
        ctx.parameter = None if kept is None else weight
        return _multiply(lhs, weights.rows(kept, weight), bias, x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        gradients.require_first()
        weight, *along_tokens = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        dx = dw = db = None
        with torch.no_grad():
            rows = _rows(dy).contiguous()
            if needs_weight:
                lhs, dy_t = operands.along_both(rows)
                x_t = tuple(along_tokens)
                product = functools.partial(_over_tokens, dy_t, x_t)
                dw = gradients.deliver(weight, ctx.parameter, product)
            elif needs_x:
                lhs = operands.along_features(rows)
            if needs_x:
                rhs = weights.columns(ctx.kept, weight if ctx.parameter is None else ctx.parameter)
                dx = _multiply(lhs, rhs, None, dy)
            if needs_bias:
                db = rows.sum(0, dtype=torch.float32).to(ctx.bias_dtype)
        return dx, dw, db, None
