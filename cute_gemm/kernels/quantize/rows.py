"""Which rows are quantised, and where each comes from.

What says so is read from memory and may be anything: a source is a row of the matrix, or there is none.
"""

from dataclasses import dataclass
from typing import ClassVar

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from ...schedulers import warp
from ...schedulers.group_table import FAN

SKIPPED = -1
"""In place of the source of a row that stays as it is."""


@dataclass(frozen=True)
class AllRows:
    """Each row, from the one of its number."""

    may_skip: ClassVar[bool] = False
    """Whether rows that a matrix has are skipped."""

    @staticmethod
    def of(end: Int32) -> "AllRows":
        """Of a source with ``end`` rows a matrix; what follows is what a call says of rows."""
        return AllRows()

    def source(self, row: Int32, matrix: Int32) -> Int32:
        """The row of the source that ``row`` of a matrix is made of, or :data:`SKIPPED`.

        Whole warps ask, all lanes for the same row: all get the same answer. Rows may lie behind the last.
        """
        return row


@dataclass(frozen=True)
class GatheredRows:
    """Each from the row that an index names. Where there is no such row, it is skipped."""

    may_skip: ClassVar[bool] = True
    index: cute.Tensor  # (rows,)
    end: Int32

    @staticmethod
    def of(end: Int32, index: cute.Tensor) -> "GatheredRows":
        return GatheredRows(index, end)

    @cute.jit
    def source(self, row: Int32, matrix: Int32) -> Int32:
        named = self.index[cutlass.min(row, self.index.shape[0] - 1)]
        is_one = named >= 0 and named < self.end
        return Int32(cutlass.select_(is_one, Int32(named), Int32(SKIPPED)))


@dataclass(frozen=True)
class ValidRows:
    """Of each matrix the first rows, as many as a count says: the masked layout."""

    may_skip: ClassVar[bool] = True
    counts: cute.Tensor  # (matrices,)

    @staticmethod
    def of(end: Int32, counts: cute.Tensor) -> "ValidRows":
        return ValidRows(counts)

    def source(self, row: Int32, matrix: Int32) -> Int32:
        return Int32(cutlass.select_(row < self.counts[matrix], row, Int32(SKIPPED)))


@dataclass(frozen=True)
class OwnedRows:
    """Rows that an index gives to a group, one of 0 or more: the contiguous layout."""

    may_skip: ClassVar[bool] = True
    groups: cute.Tensor  # (rows,)

    @staticmethod
    def of(end: Int32, groups: cute.Tensor) -> "OwnedRows":
        return OwnedRows(groups)

    def source(self, row: Int32, matrix: Int32) -> Int32:
        group = self.groups[cutlass.min(row, self.groups.shape[0] - 1)]
        return Int32(cutlass.select_(group >= 0, row, Int32(SKIPPED)))


@dataclass(frozen=True)
class RowsByOffsets:
    """Rows of groups, one behind the other, of which each ends where an offset says."""

    may_skip: ClassVar[bool] = True
    ends: cute.Tensor  # (groups,)
    alignment: Int32

    @staticmethod
    def of(end: Int32, ends: cute.Tensor, alignment: Int32) -> "RowsByOffsets":
        return RowsByOffsets(ends, alignment)

    @cute.jit
    def source(self, row: Int32, matrix: Int32) -> Int32:
        group, before = self.group_of(row), Int32(0)
        if group > 0:
            before = self.ends[group - 1]
        begin = (before + self.alignment - 1) // self.alignment * self.alignment
        is_ours = group < self.ends.shape[0] and row >= begin
        return Int32(cutlass.select_(is_ours, row, Int32(SKIPPED)))

    def group_of(self, row: Int32) -> Int32:
        """The first group that ends behind a row; where none does, how many there are.

        In two steps, of a load by each lane and a reduction: see :meth:`GroupTableScheduler.group_of`.
        """
        groups = self.ends.shape[0]
        part = FAN * warp.first_where(FAN, lambda i: self.end_of(FAN * i + FAN - 1) > row)
        return cutlass.min(part + warp.first_where(FAN, lambda i: self.end_of(part + i) > row), groups)

    def end_of(self, group: Int32) -> Int32:
        """The end of a group, or of the last where there is no such group."""
        return self.ends[cutlass.min(group, self.ends.shape[0] - 1)]
