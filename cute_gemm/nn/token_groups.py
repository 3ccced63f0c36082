"""Tokens in groups of any size, quantised along themselves; how many each has only the device knows.

Products over tokens take groups that begin at multiples of 16, so each is padded with zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..plan.limits import K_MULTIPLE
from ..quantize import quantize_k_grouped
from .weights import Operand


def begins(ends: Tensor, tokens: int) -> Tensor:
    """Where groups begin once each is padded, and where the last ends.

    Args:
        ends: int32 ``[G]``: the row behind each group's last.
        tokens: how many rows there are.

    Returns:
        int32 ``[G + 1]``, multiples of 16.
    """
    padded = (_sizes(ends, tokens) + K_MULTIPLE - 1) // K_MULTIPLE * K_MULTIPLE
    return torch.nn.functional.pad(padded.cumsum(0), (1, 0)).int()


def quantize(x: Tensor, ends: Tensor) -> Operand:
    """``x`` ``[T, C]`` along tokens, as `k_grouped_fp8_gemm_nt` takes it with offsets of :func:`begins`.

    Rows of no group are not looked at. There is room for 16 rows more for each group.
    """
    tokens, groups = x.shape[0], ends.shape[0]
    first, sizes = begins(ends, tokens), _sizes(ends, tokens)
    places = torch.arange((tokens + groups * K_MULTIPLE) // K_MULTIPLE * K_MULTIPLE, device=x.device)
    group = torch.searchsorted(first[1:].long(), places, right=True).clamp(max=groups - 1)
    within = places - first[group]
    is_token = within < sizes[group]
    if tokens:
        source = torch.where(is_token, (ends.clamp(0, tokens) - sizes)[group] + within, 0)
        x = torch.where(is_token[:, None], x[source], 0)
    else:
        x = x.new_zeros(len(places), x.shape[1])
    return quantize_k_grouped(x, first)


def _sizes(ends: Tensor, tokens: int) -> Tensor:
    return torch.diff(ends.clamp(0, tokens), prepend=ends.new_zeros(1)).clamp(min=0)
