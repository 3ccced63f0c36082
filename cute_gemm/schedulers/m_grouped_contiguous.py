"""Groups in one matrix, padded to whole blocks of rows, each row of which names its group."""

from dataclasses import dataclass, replace
from typing import ClassVar

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32, const_expr

from ..problem import CONTIGUOUS_ALIGNMENT
from . import warp
from .base import WorkTile
from .dense import DenseScheduler


@dataclass(frozen=True)
class MGroupedContiguousScheduler:
    """The schedule of a dense GEMM, less the tiles of padding.

    A tile belongs to the group that its first row names, and ends before the first row that names a negative
    one. A tile is padding if its first row names no group that there is. A tile two blocks high comes
    twice, once for each block, if they are of two groups or the first one is not full.
    """

    table_entries: ClassVar[int] = 0

    dense: DenseScheduler
    groups: Int32
    group_index: cute.Tensor  # (m,)

    @staticmethod
    def to_params(
        m, n, k_blocks, groups, grouping, num_sms, *, block_mn, cluster_mn, raster
    ) -> "MGroupedContiguousScheduler":
        """The schedule of one call; ``grouping`` is the group of each row."""
        assert cluster_mn[0] == 1, "the CTAs of a cluster must be in one group"
        extents = m, n, k_blocks, groups, (), num_sms
        dense = DenseScheduler.to_params(*extents, block_mn=block_mn, cluster_mn=cluster_mn, raster=raster)
        (group_index,) = grouping
        return MGroupedContiguousScheduler(dense, groups, group_index)

    def grid_shape(self):
        """CTAs to launch: as many clusters as fit at once, or as there can be tiles for."""
        return self.dense.grid_shape()

    def prepare(self, table, tidx) -> "MGroupedContiguousScheduler":
        """The same: the data is looked at tile by tile."""
        return self

    def initial_work(self) -> WorkTile:
        """The first tile of the calling CTA."""
        return self.skip_padding(self.dense.initial_work())

    def advance(self, tile: WorkTile) -> WorkTile:
        """The tile after ``tile`` of the calling CTA."""
        return self.skip_padding(self.behind(tile, tile.group))

    @cute.jit
    def skip_padding(self, tile: WorkTile) -> WorkTile:
        """The first tile of the calling CTA, from ``tile`` on, that is none of padding."""
        group = self.group_index[tile.row]
        while tile.is_valid and (group < 0 or group >= self.groups):
            tile = self.behind(tile, group)
            group = self.group_index[tile.row]
        rows = warp.first_where(self.dense.block_m, lambda i: self.index_of(tile.row + i) < 0)
        if self.is_cut(tile, group):
            rows = cutlass.min(rows, CONTIGUOUS_ALIGNMENT)
        return replace(
            tile,
            row_end=cutlass.min(tile.row + rows, self.dense.m),
            group=cutlass.max(cutlass.min(group, self.groups - 1), 0),
        )

    @cute.jit
    def behind(self, tile: WorkTile, group: Int32) -> WorkTile:
        """What comes after ``tile`` of ``group``, padding or not: its lower half, if that is another's."""
        following = self.dense.advance(tile)
        if tile.row % self.dense.block_m == 0 and self.is_cut(tile, group):
            if tile.row + CONTIGUOUS_ALIGNMENT < self.dense.m:
                following = replace(tile, row=tile.row + CONTIGUOUS_ALIGNMENT)
        return following

    @cute.jit
    def is_cut(self, tile: WorkTile, group: Int32) -> Boolean:
        """Whether only the first of the two blocks that ``tile`` is high is to be stored."""
        is_cut = Boolean(False)
        if const_expr(self.dense.block_m > CONTIGUOUS_ALIGNMENT):
            is_lower_half = tile.row % self.dense.block_m != 0
            upper_rows = warp.first_where(CONTIGUOUS_ALIGNMENT, lambda i: self.index_of(tile.row + i) < 0)
            lower_group = self.index_of(tile.row + CONTIGUOUS_ALIGNMENT)
            is_cut = is_lower_half or upper_rows < CONTIGUOUS_ALIGNMENT or lower_group != group
        return is_cut

    def index_of(self, row: Int32) -> Int32:
        """What ``row`` names as its group; rows beyond the matrix are like its last."""
        return self.group_index[cutlass.min(row, self.dense.m - 1)]
