"""Which rows share scales along columns: blocks of 128, and the columns of their scales.

Block i has column i of the scales. What says where blocks begin is read from memory and may be anything: no
block reaches beyond a matrix.
"""

from dataclasses import dataclass
from typing import ClassVar

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32

from ...plan.limits import K_MULTIPLE
from ...plan.quantizer import BLOCK
from ...schedulers import warp
from ...schedulers.group_table import FAN
from .preconditions import are_edges

Span = tuple[Int32, Int32]
"""A first one, and the one behind the last."""


@dataclass(frozen=True)
class EvenBlocks:
    """Each block begins at a multiple of 128 rows; where the matrix ends, the last one does."""

    reads_memory: ClassVar[bool] = False
    """Whether blocks depend on what is in memory, which kernels ahead on the stream may still write."""

    is_whole: ClassVar[bool] = True
    """Whether blocks are of whole pieces of 16 rows, which are the same columns of what is transposed."""

    def are_in_order(self, rows: Int32, columns: Int32) -> Boolean:
        """Whether the host may launch blocks of so many rows, which so many columns are made of."""
        return Boolean(True)

    def count(self, rows: Int32) -> Int32:
        """Blocks of a matrix of so many rows: as many as there are columns of scales."""
        return cute.ceil_div(rows, BLOCK)

    def spans_of(self, block: Int32, rows: Int32) -> tuple[Span, Span]:
        """The rows of a block in a matrix of so many, and their columns of what is transposed.

        Whole warps ask, all lanes for the same block. One without columns ends where it begins.
        """
        span = block * BLOCK, rows
        return span, span


@dataclass(frozen=True)
class BlocksByOffsets:
    """Blocks of groups, from each group's first row on; a group's last block may be shorter.

    Block j of group g has number ``edges[g] // 128 + g + j``, so groups are searched by those numbers. Some
    numbers no block has.
    """

    reads_memory: ClassVar[bool] = True
    is_whole: ClassVar[bool] = True

    edges: cute.Tensor  # (groups + 1,)

    def are_in_order(self, rows: Int32, columns: Int32) -> Boolean:
        """As of :class:`EvenBlocks`."""
        return are_edges(self.edges)

    def count(self, rows: Int32) -> Int32:
        """As of :class:`EvenBlocks`."""
        return rows // BLOCK + self.groups

    @property
    def groups(self) -> Int32:
        return self.edges.shape[0] - 1

    def spans_of(self, block: Int32, rows: Int32) -> tuple[Span, Span]:
        """As of :class:`EvenBlocks`; the first row is a multiple of 16, and so is the end."""
        _, *span = self.place_of(block, rows)
        return span, span

    @cute.jit
    def place_of(self, block: Int32, rows: Int32) -> tuple[Int32, Int32, Int32]:
        """The group of a block, its first row, and the row behind its last."""
        group = self.group_of(block, rows)
        first = self.edge(group, rows)
        end = cutlass.max(self.edge(group + 1, rows), first)
        place = block - (first // BLOCK + group)
        is_one = place >= 0 and place < cute.ceil_div(end - first, BLOCK)
        # Not before it is known to be one: the last numbers' rows would be no Int32.
        first += Int32(cutlass.select_(is_one, place, Int32(0))) * BLOCK
        last = cutlass.min(end - first, BLOCK) + first
        return group, first, Int32(cutlass.select_(is_one, last, first))

    def group_of(self, block: Int32, rows: Int32) -> Int32:
        """The first group whose successor begins behind ``block``, else the last.

        In two steps, of a load by each lane and a reduction: see :meth:`GroupTableScheduler.group_of`.
        """
        part = FAN * warp.first_where(FAN, lambda i: self.first_block(FAN * i + FAN, rows) > block)
        group = part + warp.first_where(FAN, lambda i: self.first_block(part + i + 1, rows) > block)
        return cutlass.min(group, self.groups - 1)

    def first_block(self, group: Int32, rows: Int32) -> Int32:
        """The number of a group's first block; where there is no such group, the one behind all."""
        known = cutlass.min(group, self.groups)
        return self.edge(known, rows) // BLOCK + known

    def edge(self, place: Int32, rows: Int32) -> Int32:
        """An edge as it counts, whatever memory holds."""
        return cutlass.max(cutlass.min(self.edges[place], rows), 0) // K_MULTIPLE * K_MULTIPLE


@dataclass(frozen=True)
class BlocksByEnds:
    """Blocks of groups of any number of rows, which follow each other; of each, columns are a multiple of 16.

    Blocks and their numbers are those of :class:`BlocksByOffsets` of columns. Columns that a group has no
    row for become zeros.
    """

    reads_memory: ClassVar[bool] = True
    is_whole: ClassVar[bool] = False

    edges: cute.Tensor  # (groups + 1,), of columns
    ends: cute.Tensor  # (groups,), the row behind each group's last

    @property
    def of_columns(self) -> BlocksByOffsets:
        return BlocksByOffsets(self.edges)

    @cute.jit
    def are_in_order(self, rows: Int32, columns: Int32) -> Boolean:
        """As of :class:`EvenBlocks`."""
        is_of_all = self.edges.shape[0] == self.ends.shape[0] + 1
        return are_edges(self.edges) and is_of_all and columns == self.columns(rows)

    def columns(self, rows: Int32) -> Int32:
        """Room for so many rows, of which each group is rounded up."""
        return (rows // K_MULTIPLE + self.ends.shape[0]) * K_MULTIPLE

    def count(self, rows: Int32) -> Int32:
        """As of :class:`EvenBlocks`."""
        return self.of_columns.count(self.columns(rows))

    @cute.jit
    def spans_of(self, block: Int32, rows: Int32) -> tuple[Span, Span]:
        """As of :class:`EvenBlocks`; there may be fewer rows than columns."""
        columns = self.columns(rows)
        group, column, end = self.of_columns.place_of(block, columns)
        before = Int32(cutlass.select_(group > 0, self.end(cutlass.max(group - 1, 0), rows), Int32(0)))
        behind = cutlass.max(self.end(group, rows), before)
        # In this order: whatever memory holds, no sum is beyond an Int32.
        skipped = cutlass.min(column - self.of_columns.edge(group, columns), behind - before)
        first = before + skipped
        return (first, first + cutlass.min(behind - first, end - column)), (column, end)

    def end(self, group: Int32, rows: Int32) -> Int32:
        """The row behind a group's last as it counts, whatever memory holds."""
        return cutlass.max(cutlass.min(self.ends[group], rows), 0)
