"""Schedules of groups whose sizes only the device knows: a table in shared memory says where each begins."""

from dataclasses import dataclass, replace
from typing import ClassVar

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Constexpr, Int32, const_expr

from ..plan.limits import MAX_GROUPS
from . import taken, warp
from .base import WorkTile
from .raster import banded

TILE_LIMIT = 2**30 - 1
"""Most tiles of a schedule, so that a sum of two places is an Int32. No memory holds a D of so many; only
groups that claim the same rows many times over can ask for more, and the last of them are then left out."""

FAN = 32
"""Parts into which the groups, then one of these parts, are split to find the group of a tile."""


@dataclass(frozen=True, kw_only=True)
class GroupTableScheduler:
    """Tiles of the blocks of rows of one group after the other, counted in whole clusters.

    A group has its own blocks, as high as a CTA's tile: where one of them is left over, the CTAs of a cluster
    are in two groups, and do not share B. ``table[g]`` counts the blocks before group g, and with the number
    of groups for g all of them.

    Bands are of the clusters that begin in one group. Where they go on into the next, fewer of the CTAs that
    run at once share B, and more is read from DRAM (docs/performance.md, 53).

    Which rows are a group's is for subclasses to say. They read it from memory that may hold anything: no
    group's rows may lie outside of its matrix, whatever is there.
    """

    table_entries: ClassVar[int] = MAX_GROUPS + 1
    has_padding: ClassVar[bool] = False
    reads_memory: ClassVar[bool] = True

    block_m: Constexpr[int]
    cluster_m: Constexpr[int]
    cluster_n: Constexpr[int]
    raster_width: Constexpr[int]
    groups: Int32
    n_clusters: Int32
    k_blocks: Int32
    clusters: Int32  # to launch
    block_limit: Int32  # the largest entry of a table
    # What `prepare` fills.
    table: cute.Tensor | None = None

    @classmethod
    def make(cls, max_blocks, n, k_blocks, groups, num_sms, block_mn, cluster_mnk, raster_width, **rows):
        """A schedule of at most ``max_blocks`` blocks of rows; ``rows`` are the fields of a subclass."""
        n_clusters = cute.ceil_div(n, block_mn[1] * cluster_mnk[1])
        max_clusters = cutlass.max(num_sms // (cluster_mnk[0] * cluster_mnk[1]), 1)
        return cls(
            block_m=block_mn[0],
            cluster_m=cluster_mnk[0],
            cluster_n=cluster_mnk[1],
            raster_width=raster_width,
            groups=groups,
            n_clusters=n_clusters,
            k_blocks=k_blocks,
            clusters=cutlass.min(cute.ceil_div(max_blocks, cluster_mnk[0]) * n_clusters, max_clusters),
            block_limit=TILE_LIMIT // n_clusters,
            **rows,
        )

    def rows_of(self, group: Int32) -> tuple[Int32, Int32, Int32]:
        """The matrix of A that holds the rows of ``group``, its first row, and the row behind its last.

        An empty group may end before it begins.
        """
        raise NotImplementedError

    def groups_in(self, matrix: Int32) -> tuple[Int32, Int32]:
        """The first of groups among which are all that have rows in ``matrix``, and the one behind them."""
        return Int32(0), self.groups

    @property
    def varying(self) -> tuple[str, ...]:
        """The fields of a tile that may differ from those of the first."""
        shares = ("shares_b",) if self.cluster_m > 1 else ()
        return ("is_valid", "row", "n_tile", "row_end", "m_group", "group", *shares)

    def grid_shape(self):
        """CTAs to launch: as many clusters as fit at once, or as there can be tiles for."""
        return (self.cluster_m, self.cluster_n, self.clusters)

    @cute.jit
    def prepare(self, table: cute.Tensor, tidx: Int32):
        """Has the first warp fill ``table``: each lane its own share of groups that follow each other."""
        if tidx < warp.SIZE:
            self.add_blocks(table, tidx, warp.sum_before(self.count_blocks(table, tidx), self.block_limit))
        cute.arch.sync_threads()
        return replace(self, table=table)

    @cute.jit
    def count_blocks(self, table: cute.Tensor, lane: Int32) -> Int32:
        """Fills the entries that end the groups of ``lane``, as if none came before; returns the last."""
        blocks = Int32(0)
        first, last = self.share(lane)
        for group in cutlass.range(first, last, unroll=4):
            _, first_row, row_end = self.rows_of(group)
            rows = cutlass.max(row_end - first_row, 0)
            blocks = cutlass.min(blocks + cute.ceil_div(rows, self.block_m), self.block_limit)
            table[group + 1] = blocks
        return blocks

    @cute.jit
    def add_blocks(self, table: cute.Tensor, lane: Int32, before: Int32):
        """Adds the blocks ``before`` the groups of ``lane`` to their entries."""
        if lane == 0:
            table[0] = Int32(0)
        first, last = self.share(lane)
        for group in cutlass.range(first, last, unroll=4):
            table[group + 1] = cutlass.min(table[group + 1] + before, self.block_limit)

    def share(self, lane: Int32) -> tuple[Int32, Int32]:
        """The groups of ``lane``: its first, and the one behind its last."""
        size = cute.ceil_div(self.groups, warp.SIZE)
        return cutlass.min(lane * size, self.groups), cutlass.min(lane * size + size, self.groups)

    @cute.jit
    def initial_work(self) -> WorkTile:
        """The first tile of the calling CTA."""
        _, _, cluster = cute.arch.block_idx()
        return self.at(cluster)

    @cute.jit
    def at(self, index: Int32) -> WorkTile:
        """Tile ``index`` of the schedule, as seen by the calling CTA.

        Past the end it is the last tile, marked invalid: a role may prepare for it before it looks. A CTA for
        which a cluster has no block left is in the group of the last one, behind its rows. Where there are no
        blocks at all, no tile is valid.
        """
        rank_m, rank_n, _ = cute.arch.block_idx()
        blocks = self.table[self.groups]
        m_clusters = cute.ceil_div(blocks, self.cluster_m)
        total = m_clusters * self.n_clusters
        within = cutlass.max(cutlass.min(index, total - 1), 0)
        # The clusters that begin in a group have a run of indices, whichever way they are walked. Walked row
        # by row, an index tells its row of clusters, and so the group.
        group = self.group_of(within // self.n_clusters * self.cluster_m)
        first_block, end_block = self.table[group], self.table[group + 1]
        begin, end = (cute.ceil_div(place, self.cluster_m) for place in (first_block, end_block))
        m_cluster, n_cluster = banded(
            within - begin * self.n_clusters, cutlass.max(end - begin, 1), self.n_clusters, self.raster_width
        )
        first = (begin + m_cluster) * self.cluster_m
        block = first + rank_m
        if const_expr(self.cluster_m > 1):
            if block >= end_block:
                group = self.group_of(cutlass.max(cutlass.min(block, blocks - 1), 0))
                first_block, end_block = self.table[group], self.table[group + 1]
        shares_b = Boolean(True)
        if const_expr(self.cluster_m > 1):
            shares_b = first_block <= first and cutlass.min(first + self.cluster_m, blocks) <= end_block
        m_group, first_row, row_end = self.rows_of(group)
        return WorkTile(
            index=index,
            row=first_row + (block - first_block) * self.block_m,
            row_end=row_end,
            n_tile=n_cluster * self.cluster_n + rank_n,
            m_group=m_group,
            group=group,
            shares_b=shares_b,
            k_start=Int32(0),
            k_count=self.k_blocks,
            is_valid=index < total,
            is_padding=Boolean(False),
        )

    def group_of(self, block: Int32) -> Int32:
        """The group of a block of rows; the last group where there are no blocks.

        A warp finds it in two steps, each a load and a reduction over its lanes, however many groups there
        are and however many of them are empty. A binary search among 256 groups takes eight loads, each of
        which waits for the one before.
        """
        part = FAN * warp.first_where(FAN, lambda i: self.end_block(FAN * i + FAN - 1) > block)
        group = part + warp.first_where(FAN, lambda i: self.end_block(part + i) > block)
        return cutlass.min(group, self.groups - 1)

    def end_block(self, group: Int32) -> Int32:
        """The blocks before the end of ``group``, all of them where there is no such group."""
        return self.table[cutlass.min(group + 1, self.groups)]

    @cute.jit
    def rows_taken(self, row: Int32, matrix: Int32) -> Int32:
        """As :mod:`.taken` says; each lane looks at its own groups, as their ends may be in any order."""
        found = Int32(0)
        first, last = self.groups_in(matrix)
        for group in cutlass.range(first + cute.arch.lane_idx(), last, warp.SIZE, unroll=1):
            m_group, first_row, row_end = self.rows_of(group)
            if m_group == matrix:
                found = found | taken.bits(first_row - row, row_end - row)
        return cute.arch.warp_redux_sync(found, "or")
