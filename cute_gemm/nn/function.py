"""A linear layer's three products, as autograd calls them.

forward   y  = x @ W.T         x 1x128 along inputs     W 128x128
dgrad     dx = dy @ W          dy 1x128 along outputs   the same FP8 values of W, transposed
wgrad     dW = dy.T @ x        both 1x128 along tokens

Of x the FP8 values along tokens are kept for wgrad: half of what bf16 takes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import epilogue
from ..ops.dense import fp8_gemm_nt
from . import _wgrad, gradients, operands, weights
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
    rows = x.reshape(-1, x.shape[-1])
    given = rows, weight, *(() if bias is None else (bias,))
    if torch.is_grad_enabled() and any(each.requires_grad for each in given):
        # What is kept has no place in a graph: the same values would be another tensor each time.
        y = _Linear.apply(rows, weight, bias, None if torch.compiler.is_compiling() else kept)
    else:
        with torch.no_grad():
            rhs = weights.rows(None if torch.compiler.is_compiling() else kept, weight)
            y = _forward(operands.along_features(rows), rhs, bias, rows.dtype)
    return y.reshape(*x.shape[:-1], weight.shape[0])


def _forward(lhs: Operand, rhs: Operand, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    added = None if bias is None else epilogue.bias(bias)
    return fp8_gemm_nt(lhs, rhs, out_dtype=operands.product_dtype(dtype), epilogue=added).to(dtype)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, kept: KeptWeight | None) -> Tensor:
        if ctx.needs_input_grad[1]:
            lhs, along_tokens = operands.along_both(x)
            ctx.save_for_backward(weight, *along_tokens)
        else:
            lhs = operands.along_features(x)
            ctx.save_for_backward(weight)
        ctx.dtype, ctx.kept = x.dtype, kept
        ctx.bias_dtype = None if bias is None else bias.dtype
        # Hooks of saved tensors may give another tensor back, which has no `main_grad`.
        ctx.parameter = None if kept is None else weight
        return _forward(lhs, weights.rows(kept, weight), bias, x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        gradients.require_first()
        weight, *along_tokens = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        dx = dw = db = None
        with torch.no_grad():
            dy = dy.contiguous()
            if needs_weight:
                lhs, dy_t = operands.along_both(dy)
                x_t = tuple(along_tokens)
                dw = gradients.deliver(
                    weight,
                    ctx.parameter,
                    lambda out: _wgrad.product(dy_t, x_t, out, accumulate=out is not None),
                )
            elif needs_x:
                lhs = operands.along_features(dy)
            if needs_x:
                rhs = weights.columns(ctx.kept, weight if ctx.parameter is None else ctx.parameter)
                dx = _forward(lhs, rhs, None, ctx.dtype)
            if needs_bias:
                db = dy.sum(0, dtype=torch.float32).to(ctx.bias_dtype)
        return dx, dw, db, None
