"""Groups in matrices of their own, all of the same capacity; the device knows how many rows of each count."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from .group_table import GroupTableScheduler


@dataclass(frozen=True, kw_only=True)
class MGroupedMaskedScheduler(GroupTableScheduler):
    """A group has the first ``valid_rows`` of its matrix, none if they are negative, at most all."""

    capacity: Int32
    valid_rows: cute.Tensor  # (groups,)

    @classmethod
    def to_params(
        cls, m, n, k_blocks, groups, grouping, num_sms, *, block_mn, cluster_mnk, raster_width
    ) -> "MGroupedMaskedScheduler":
        """The schedule of one call; ``grouping`` is the number of valid rows of each group."""
        (valid_rows,) = grouping
        max_blocks = cute.ceil_div(m, block_mn[0]) * groups
        sizes = max_blocks, n, k_blocks, groups, num_sms
        rows = dict(capacity=m, valid_rows=valid_rows)
        return cls.make(*sizes, block_mn, cluster_mnk, raster_width, **rows)

    def rows_of(self, group: Int32) -> tuple[Int32, Int32, Int32]:
        """The matrix of ``group``, its first row, and the row behind its last valid one."""
        return group, Int32(0), cutlass.max(cutlass.min(self.valid_rows[group], self.capacity), 0)

    def groups_in(self, matrix: Int32) -> tuple[Int32, Int32]:
        """The one of that number."""
        return matrix, matrix + 1
