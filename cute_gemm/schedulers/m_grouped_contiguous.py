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

    Of two CTAs along M, each has its own tile and group. They skip what is padding for both; where it is for
    one, its tile is of its peer's group and has no rows. Each looks at the first rows of both tiles: whatever
    is there, they agree on which tiles they walk, and for which of them they share B.
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
        is_pair = cluster_mn[0] == 2 and block_mn[0] <= CONTIGUOUS_ALIGNMENT
        assert cluster_mn[0] == 1 or is_pair, "a tile may come twice for one CTA of a cluster only"
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
        """The first tile of the calling CTA, from ``tile`` on, that is not padding, or not for its peer."""
        group, peer = self.groups_of(tile)
        while tile.is_valid and group < 0 and peer < 0:
            tile = self.behind(tile, group)
            group, peer = self.groups_of(tile)
        rows = warp.first_where(self.dense.block_m, lambda i: self.index_of(tile.row + i) < 0)
        if self.is_cut(tile, group):
            rows = cutlass.min(rows, CONTIGUOUS_ALIGNMENT)
        if const_expr(self.dense.cluster_m > 1):
            tile = replace(tile, shares_b=group < 0 or peer < 0 or group == peer)
            if group < 0:
                group, rows = peer, Int32(0)
        return replace(
            tile,
            row_end=cutlass.min(tile.row + rows, self.dense.m),
            group=cutlass.max(group, 0),
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

    @cute.jit
    def groups_of(self, tile: WorkTile) -> tuple[Int32, Int32]:
        """The group of ``tile``, and that of the other CTA along M, if any; negative for padding."""
        group = self.group_at(tile.row)
        peer = group
        if const_expr(self.dense.cluster_m > 1):
            rank_m, _, _ = cute.arch.block_idx()
            peer = self.group_at(tile.row + (1 - 2 * rank_m) * self.dense.block_m)
        return group, peer

    def group_at(self, row: Int32) -> Int32:
        """The group that ``row`` names; negative if there is none such."""
        group = self.index_of(row)
        return cutlass.select_(group < self.groups, group, Int32(-1))

    def index_of(self, row: Int32) -> Int32:
        """What ``row`` names as its group; rows beyond the matrix are like its last."""
        return self.group_index[cutlass.min(row, self.dense.m - 1)]
