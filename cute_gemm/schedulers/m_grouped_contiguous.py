"""Groups in one matrix, padded to whole blocks of rows, each row of which names its group."""

from dataclasses import dataclass, replace
from typing import ClassVar

import cutlass
import cutlass.cute as cute
from cutlass import Int32, const_expr

from ..plan.limits import CONTIGUOUS_ALIGNMENT
from . import taken, warp
from .base import WorkTile
from .dense import DenseScheduler


@dataclass(frozen=True)
class MGroupedContiguousScheduler:
    """The schedule of a dense GEMM, in which some tiles are padding.

    Static persistence does not make up for padding, which at regular distances may leave most tiles to few
    clusters. With 32 groups in slots of 256 rows, 100 of them valid, 33 of 66 clusters have all tiles.

    A tile, never higher than the blocks that groups are made of, belongs to the group that its first row
    names, and ends before the first row that names a negative one. It is padding if its first row names no
    group that there is.

    Of two CTAs along M, each has its own tile and group. They skip what is padding for both; where it is for
    one, its tile is of its peer's group and has no rows. Each looks at the first rows of both tiles: whatever
    is there, they agree on which tiles they walk, and for which of them they share B.
    """

    table_entries: ClassVar[int] = 0
    has_padding: ClassVar[bool] = True
    reads_memory: ClassVar[bool] = True

    dense: DenseScheduler
    groups: Int32
    group_index: cute.Tensor  # (m,)

    @classmethod
    def to_params(
        cls, m, n, k_blocks, groups, grouping, num_sms, *, block_mn, cluster_mnk, raster_width
    ) -> "MGroupedContiguousScheduler":
        """The schedule of one call; ``grouping`` is the group of each row."""
        assert block_mn[0] <= CONTIGUOUS_ALIGNMENT, "a tile may be of two groups"
        assert cluster_mnk[0] <= 2, "a CTA looks at one peer only"
        extents = m, n, k_blocks, groups, (), num_sms
        dense = DenseScheduler.to_params(
            *extents, block_mn=block_mn, cluster_mnk=cluster_mnk, raster_width=raster_width
        )
        (group_index,) = grouping
        return cls(dense, groups, group_index)

    @property
    def varying(self) -> tuple[str, ...]:
        """The fields of a tile that may differ from those of the first."""
        shares = ("shares_b",) if self.dense.cluster_m > 1 else ()
        return (*self.dense.varying, "row_end", "group", *shares)

    def grid_shape(self):
        """CTAs to launch: as many clusters as fit at once, or as there can be tiles for."""
        return self.dense.grid_shape()

    def prepare(self, table, tidx) -> "MGroupedContiguousScheduler":
        """The same: the data is looked at tile by tile."""
        return self

    def initial_work(self) -> WorkTile:
        """The first tile of the calling CTA."""
        return self.in_its_group(self.dense.initial_work())

    def at(self, index: Int32) -> WorkTile:
        """Tile ``index`` of the schedule, as seen by the calling CTA."""
        return self.in_its_group(self.dense.at(index))

    @cute.jit
    def in_its_group(self, tile: WorkTile) -> WorkTile:
        """``tile`` with its group and the end of its rows; it is padding if it is for its peer, too."""
        group, peer, rows = self.look_at(tile)
        tile = replace(tile, is_padding=group < 0 and peer < 0)
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
    def look_at(self, tile: WorkTile) -> tuple[Int32, Int32, Int32]:
        """The group of ``tile`` and that of the other CTA along M, if any, and the rows before any padding.

        A group is negative if its tile is padding. No load waits for another: every role waits for those of
        its first tile.
        """
        rows = self.rows_before_padding(tile.row)
        group = self.group_at(tile.row)
        peer = group
        if const_expr(self.dense.cluster_m > 1):
            rank_m, _, _ = cute.arch.block_idx()
            peer = self.group_at(tile.row + (1 - 2 * rank_m) * self.dense.block_m)
        return group, peer, rows

    @cute.jit
    def rows_taken(self, row: Int32, matrix: Int32) -> Int32:
        """As :mod:`.taken` says, of one tile after the other where they are lower."""
        found, height = Int32(0), min(self.dense.block_m, taken.ROWS)
        for place in cutlass.range_constexpr(0, taken.ROWS, height):
            first = row + place
            tile = first - first % self.dense.block_m
            end = tile
            if self.group_at(tile) >= 0:
                end = cutlass.min(tile + self.rows_before_padding(tile), first + height)
            found = found | taken.bits(place, end - row)
        return found

    def rows_before_padding(self, tile_row: Int32) -> Int32:
        """How many rows of the tile that begins there come before the first of padding."""
        return warp.first_where(self.dense.block_m, lambda i: self.index_of(tile_row + i) < 0)

    def group_at(self, row: Int32) -> Int32:
        """The group that ``row`` names; negative if there is none such."""
        group = self.index_of(row)
        return cutlass.select_(group < self.groups, group, Int32(-1))

    def index_of(self, row: Int32) -> Int32:
        """What ``row`` names as its group; rows beyond the matrix are like its last."""
        return self.group_index[cutlass.min(row, self.dense.m - 1)]
