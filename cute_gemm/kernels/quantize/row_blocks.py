"""Which rows share scales along columns: blocks of 128, and the columns of their scales.

Block i has column i of the scales. What says where blocks begin is read from memory and may be anything: no
block reaches beyond the matrix.
"""

from dataclasses import dataclass
from typing import ClassVar

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from ...plan.limits import K_MULTIPLE
from ...plan.quantizer import BLOCK
from ...schedulers import warp
from ...schedulers.group_table import FAN


@dataclass(frozen=True)
class EvenBlocks:
    """Each block begins at a multiple of 128 rows; where the matrix ends, the last one does."""

    reads_memory: ClassVar[bool] = False
    """Whether blocks depend on what is in memory, which kernels ahead on the stream may still write."""

    def count(self, rows: Int32) -> Int32:
        """Blocks of a matrix of so many rows: as many as there are columns of scales."""
        return cute.ceil_div(rows, BLOCK)

    def rows_of(self, block: Int32, rows: Int32) -> tuple[Int32, Int32]:
        """The first row of a block in a matrix of so many, and the row behind its last.

        Whole warps ask, all lanes for the same block. One without rows ends where it begins.
        """
        return block * BLOCK, rows


@dataclass(frozen=True)
class BlocksByOffsets:
    """Blocks of groups, from each group's first row on; a group's last block may be shorter.

    Block j of group g has number ``edges[g] // 128 + g + j``, so groups are searched by those numbers. Some
    numbers no block has.
    """

    reads_memory: ClassVar[bool] = True

    edges: cute.Tensor  # (groups + 1,)

    def count(self, rows: Int32) -> Int32:
        """As of :class:`EvenBlocks`."""
        return rows // BLOCK + self.groups

    @property
    def groups(self) -> Int32:
        return self.edges.shape[0] - 1

    @cute.jit
    def rows_of(self, block: Int32, rows: Int32) -> tuple[Int32, Int32]:
        """As of :class:`EvenBlocks`; the first row is a multiple of 16, and so is the end."""
        group = self.group_of(block, rows)
        first = self.edge(group, rows)
        end = cutlass.max(self.edge(group + 1, rows), first)
        place = block - (first // BLOCK + group)
        is_one = place >= 0 and place < cute.ceil_div(end - first, BLOCK)
        # Not before it is known to be one: the last numbers' rows would be no Int32.
        first += Int32(cutlass.select_(is_one, place, Int32(0))) * BLOCK
        last = cutlass.min(end - first, BLOCK) + first
        return first, Int32(cutlass.select_(is_one, last, first))

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
