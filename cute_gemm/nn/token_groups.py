"""Tokens of groups of any size, quantised along themselves in plain torch: what a kernel will replace.

Groups of tokens begin at multiples of 16 here, and blocks of 128 tokens at each group's first. Scales of
block j of group g, which begins at token b, are in column ``b // 128 + g + j``, which no other block has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..plan.limits import K_MULTIPLE, ceil_div
from ..plan.recipe import FP8_1D2D
from ..quantize import formula
from .weights import Operand

_BLOCK = FP8_1D2D.promote_k


def padded_rows(rows: int, groups: int) -> int:
    """Room for so many rows, of which each group is rounded up to a multiple of 16."""
    return ceil_div(rows, K_MULTIPLE) * K_MULTIPLE + groups * K_MULTIPLE


def begins(ends: Tensor, rows: int) -> Tensor:
    """Where groups of ``ends`` begin once each is rounded up, and where the last ends: int32 ``[G + 1]``."""
    sizes = _sizes(ends, rows)
    rounded = (sizes + K_MULTIPLE - 1) // K_MULTIPLE * K_MULTIPLE
    return torch.nn.functional.pad(rounded.cumsum(0), (1, 0)).int()


def quantize(x: Tensor, ends: Tensor) -> Operand:
    """Tokens 1x128 along themselves, each group by itself; none of no group is read.

    Args:
        x: ``[T, C]``.
        ends: int32 ``[G]``, of groups that follow each other.

    Returns:
        e4m3 ``[C, K]``, with zeros where groups are rounded up, and fp32 ``[C, K // 128 + G]``, where K is
        :func:`padded_rows`.
    """
    q, s = _quantize(x, ends)
    return q, s


def _sizes(ends: Tensor, rows: int) -> Tensor:
    ends = ends.clamp(0, rows)
    return torch.diff(ends, prepend=ends.new_zeros(1)).clamp(min=0)


@torch.library.custom_op("cute_gemm::quantize_tokens_by_group", mutates_args=())
def _quantize(x: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    rows, groups = len(x), len(ends)
    columns = padded_rows(rows, groups)
    q = x.new_zeros(x.shape[1], columns, dtype=formula.E4M3)
    s = x.new_ones(x.shape[1], columns // _BLOCK + groups, dtype=torch.float32)
    first = 0
    for group, (begin, size) in enumerate(
        zip(begins(ends, rows).tolist(), _sizes(ends, rows).tolist(), strict=False)
    ):
        column, blocks = begin // _BLOCK + group, ceil_div(size, _BLOCK)
        if size:
            own = x[first : first + size].t()
            formula.quantize_rows(
                own, q[:, begin : begin + size], s[:, column : column + blocks], power_of_two=False
            )
        first += size
    return q, s


@_quantize.register_fake
def _(x: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    rows, groups = x.shape[0], ends.shape[0]
    columns = padded_rows(rows, groups)
    return (
        x.new_empty(x.shape[1], columns, dtype=formula.E4M3),
        x.new_empty(x.shape[1], columns // _BLOCK + groups, dtype=torch.float32),
    )
