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


def padded_columns(rows: int, groups: int) -> int:
    """Room for so many rows as columns, of which each group is rounded up to a multiple of 16."""
    return (rows // K_MULTIPLE + groups) * K_MULTIPLE


def padded_offsets(ends: Tensor, rows: int) -> Tensor:
    """Where columns of groups begin, each rounded up, and where the last ends: int32 ``[G + 1]``.

    Args:
        ends: int32 ``[G]``, the row behind each group's last. Groups follow each other.
        rows: of the matrix; none beyond counts.
    """
    last = _ascending(ends, rows)
    sizes = torch.diff(last, prepend=last.new_zeros(1))
    rounded = (sizes + K_MULTIPLE - 1) // K_MULTIPLE * K_MULTIPLE
    return torch.nn.functional.pad(rounded.cumsum(0), (1, 0)).int()


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


def rows_of_columns(offsets: Tensor, ends: Tensor, rows: int) -> Tensor:
    """The row that each column is made of: int64 ``[padded_columns]``; ``rows`` where there is none.

    Args:
        offsets: int32 ``[G + 1]``, where columns of groups begin, and where the last ends.
        ends: int32 ``[G]``, the row behind each group's last. Groups follow each other.
        rows: of the matrix.
    """
    columns = padded_columns(rows, len(ends))
    begin = edges(offsets, columns).long()
    place = torch.arange(columns, device=ends.device)
    group = (torch.searchsorted(begin, place, right=True) - 1).clamp(0, len(ends) - 1)
    last = _ascending(ends, rows).long()
    first = torch.nn.functional.pad(last[:-1], (1, 0))
    row = first[group] + place - begin[group]
    is_one = (begin[group] <= place) & (place < begin[group + 1]) & (row < last[group])
    return torch.where(is_one, row, rows)


def _ascending(ends: Tensor, rows: int) -> Tensor:
    """The row behind each group's last as it counts."""
    return ends.clamp(0, rows).cummax(0).values


def are_grouped(offsets: Tensor, columns: int) -> Tensor:
    """Whether each column is of a group: bool ``[columns]``."""
    at = edges(offsets, columns).long()
    # Each group begins one, and ends one: what is begun and not ended is more than none.
    steps = at.new_zeros(columns + 1)
    begin, end = at[:-1], torch.maximum(at[1:], at[:-1])
    ones = torch.ones_like(begin)
    steps.index_add_(0, begin, ones).index_add_(0, end, -ones)
    return steps.cumsum(0)[:columns] > 0
