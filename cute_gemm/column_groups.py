"""Which columns belong to which group, in plain torch: groups of tokens along K, as kernels see them.

A group has the columns from one edge to the next. Its blocks of 128 begin at its own first column, the last
one may be shorter, and the scales of block j of group g stand in column ``edges[g] // 128 + g + j``. That is
``first // 128 + g`` of the block's first column, which grows by one from block to block, and by one at least
from a group to the next, whose columns come behind: so no two blocks meet, and all are below
``columns // 128 + G``.

Functions run on any device without making the host wait, and take offsets as they come.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .plan.limits import K_MULTIPLE
from .plan.quantizer import BLOCK


def scale_columns(columns: int, groups: int) -> int:
    """Columns of scales of so many columns in so many groups, some of which no block may have."""
    return columns // BLOCK + groups


def edges(offsets: Tensor, columns: int) -> Tensor:
    """Where groups begin and end, int32 ``[G + 1]``: clamped to the matrix, and rounded down to 16."""
    return offsets.clamp(0, columns) // K_MULTIPLE * K_MULTIPLE


class Blocks(NamedTuple):
    """What each column of scales is for; int64 ``[columns // 128 + G]``.

    Args:
        first: the first column of the block; 0 where there is none.
        end: the column behind its last; 0 where there is none.
    """

    first: Tensor
    end: Tensor

    @property
    def is_used(self) -> Tensor:
        """Whether there is a block."""
        return self.end > self.first


def blocks(offsets: Tensor, columns: int) -> Blocks:
    """Blocks by their columns of scales.

    Args:
        offsets: int32 ``[G + 1]``. Of groups that overlap, as their edges decrease, any may have a column.
        columns: of the matrix.
    """
    at = edges(offsets, columns).long()
    begin, end = at[:-1], at[1:]
    group = torch.arange(len(begin), device=at.device)
    start = begin // BLOCK + group
    count = ((end - begin).clamp(min=0) + BLOCK - 1) // BLOCK
    place = torch.arange(scale_columns(columns, len(begin)), device=at.device)
    is_ours = (start[:, None] <= place) & (place < (start + count)[:, None])
    owner, is_used = is_ours.byte().argmax(0), is_ours.any(0)
    first = begin[owner] + BLOCK * (place - start[owner])
    last = torch.minimum(first + BLOCK, end[owner])
    return Blocks(*(torch.where(is_used, each, 0) for each in (first, last)))
