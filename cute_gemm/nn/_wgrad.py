"""Gradients of weights in plain torch: the one place that products of FP8 over tokens will replace."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contract import ambient
from ..plan.limits import ceil_div
from ..plan.recipe import FP8_1D2D
from .weights import Operand

_BLOCK = FP8_1D2D.promote_k


def product(lhs: Operand, rhs: Operand, out: Tensor | None = None, *, accumulate: bool = False) -> Tensor:
    """``A @ B.T`` in FP32 of operands that have a scale for each row and 128 elements of K.

    Args:
        lhs: e4m3 ``[M, K]`` and fp32 ``[M, ceil(K/128)]``.
        rhs: e4m3 ``[N, K]`` and fp32 ``[N, ceil(K/128)]``.
        out: fp32 ``[M, N]`` to write; None to allocate.
        accumulate: add to what ``out`` holds.

    Returns:
        fp32 ``[M, N]``, or ``out``.
    """
    made = _multiply(*lhs, *rhs)
    if out is None:
        return made
    return out.add_(made) if accumulate else out.copy_(made)


@torch.library.custom_op("cute_gemm::weight_gradient", mutates_args=())
def _multiply(a: Tensor, sa: Tensor, b: Tensor, sb: Tensor) -> Tensor:
    sums = a.new_zeros(a.shape[0], b.shape[0], dtype=torch.float32)
    with ambient.no_autocast(a.device):
        for block in range(ceil_div(a.shape[1], _BLOCK)):
            columns = slice(block * _BLOCK, (block + 1) * _BLOCK)
            part = (a[:, columns].double() @ b[:, columns].double().t()).float()
            sums += part * (sa[:, block, None] * sb[:, block])
    return sums


@_multiply.register_fake
def _(a: Tensor, sa: Tensor, b: Tensor, sb: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[0], dtype=torch.float32)
