"""Groups of any size in one matrix, one after the other; the device knows where each ends."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from .group_table import GroupTableScheduler


@dataclass(frozen=True, kw_only=True)
class MGroupedOffsetsScheduler(GroupTableScheduler):
    """A group has the rows from the end of the one before, rounded up to a multiple of ``alignment``.

    An end outside of the matrix stands for its nearest one.
    """

    m: Int32
    ends: cute.Tensor  # (groups,)
    alignment: cute.FastDivmodDivisorV2

    @classmethod
    def to_params(
        cls, m, n, k_blocks, groups, grouping, num_sms, *, block_mn, cluster_mnk, raster_width
    ) -> "MGroupedOffsetsScheduler":
        """The schedule of one call; ``grouping`` is the end of each group, and their alignment."""
        ends, alignment = grouping
        # Each group has at most one block that is not full.
        max_blocks = m // block_mn[0] + groups
        sizes = max_blocks, n, k_blocks, groups, num_sms
        rows = dict(m=m, ends=ends, alignment=cute.FastDivmodDivisorV2(alignment))
        return cls.make(*sizes, block_mn, cluster_mnk, raster_width, **rows)

    @cute.jit
    def rows_of(self, group: Int32) -> tuple[Int32, Int32, Int32]:
        """The one matrix, the first row of ``group`` in it, and the row behind its last."""
        before = self.end_of(cutlass.max(group - 1, 0))
        if group == 0:
            before = Int32(0)
        beyond = before % self.alignment
        gap = Int32(0)
        if beyond > 0:
            gap = self.alignment.divisor - beyond
        # Not before + gap first: with a large alignment that overflows.
        first = before + cutlass.min(gap, self.m - before)
        return Int32(0), first, self.end_of(group)

    def end_of(self, group: Int32) -> Int32:
        return cutlass.max(cutlass.min(self.ends[group], self.m), 0)
