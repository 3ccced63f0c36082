"""Products of groups of columns: each group has a D of its own, and a K that only the device knows."""

from dataclasses import dataclass, replace
from typing import ClassVar

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Constexpr, Int32

from ..plan.limits import K_MULTIPLE, MAX_GROUPS
from ..plan.recipe import FP8_1D1D
from . import warp
from .base import RaggedWorkTile
from .raster import Bands

BLOCK = FP8_1D1D.scale_k
"""Elements along K of a k-block, which share a scale."""


@dataclass(frozen=True, kw_only=True)
class KGroupedScheduler:
    """All tiles of one group after the other, in bands; also of groups that have no columns.

    All groups have as many tiles, so the number of a tile tells its group. Where a group's columns begin and
    end is read for each tile. That memory may hold anything: an edge outside of the matrices stands for their
    nearest one, one that is no multiple of 16 for that before it, and a group that ends before it begins is
    empty. No tile reaches beyond A, B or their scales then, and each tile of D comes once all the same.
    """

    table_entries: ClassVar[int] = 0
    has_padding: ClassVar[bool] = False
    reads_memory: ClassVar[bool] = True

    block_m: Constexpr[int]
    cluster_m: Constexpr[int]
    cluster_n: Constexpr[int]
    bands: Bands  # of the clusters of one group
    tiles_of_group: cute.FastDivmodDivisorV2
    m: Int32
    k: Int32  # columns of A and B
    edges: cute.Tensor  # (groups + 1,)
    groups: Int32
    clusters: Int32  # to launch
    # What `prepare` fills.
    table: cute.Tensor | None = None

    @classmethod
    def to_params(
        cls, m, n, k_blocks, groups, grouping, num_sms, *, block_mn, cluster_mnk, raster_width
    ) -> "KGroupedScheduler":
        """The schedule of one call.

        ``grouping`` is where groups begin and the last one ends, one element more than there are groups, and
        the columns of A and B; ``k_blocks`` and ``groups`` are of no meaning.
        """
        edges, k = grouping
        groups = edges.shape[0] - 1
        bands = Bands.make(
            cute.ceil_div(m, block_mn[0] * cluster_mnk[0]),
            cute.ceil_div(n, block_mn[1] * cluster_mnk[1]),
            raster_width,
        )
        # No memory holds a D of so many tiles that this is no Int32.
        of_group = bands.m_tiles * bands.n_tiles
        max_clusters = cutlass.max(num_sms // (cluster_mnk[0] * cluster_mnk[1]), 1)
        return cls(
            block_m=block_mn[0],
            cluster_m=cluster_mnk[0],
            cluster_n=cluster_mnk[1],
            bands=bands,
            tiles_of_group=cute.FastDivmodDivisorV2(of_group),
            m=m,
            k=k,
            edges=edges,
            groups=groups,
            clusters=cutlass.min(groups * of_group, max_clusters),
        )

    @property
    def varying(self) -> tuple[str, ...]:
        """The fields of a tile that may differ from those of the first."""
        return "is_valid", "row", "n_tile", "k_start", "k_count", "k_element", "k_last", "k_group"

    def grid_shape(self):
        """CTAs to launch: as many clusters as fit at once, or as there can be tiles for."""
        return (self.cluster_m, self.cluster_n, self.clusters)

    def prepare(self, table, tidx) -> "KGroupedScheduler":
        """The same: no table is needed."""
        return self

    def groups_in_schedule(self) -> Int32:
        """How many groups have tiles."""
        return self.groups

    def nth_group(self, place: Int32) -> Int32:
        """The group whose tiles come after those of ``place`` others; any, if none has."""
        return place

    @cute.jit
    def initial_work(self) -> RaggedWorkTile:
        """The first tile of the calling CTA."""
        _, _, cluster = cute.arch.block_idx()
        return self.at(cluster)

    @cute.jit
    def at(self, index: Int32) -> RaggedWorkTile:
        """Tile ``index`` of the schedule, as seen by the calling CTA.

        Past the end it is the last tile, marked invalid: a role may prepare for it before it looks.
        """
        rank_m, rank_n, _ = cute.arch.block_idx()
        of_group = self.bands.m_tiles * self.bands.n_tiles
        total = self.groups_in_schedule() * of_group
        known = cutlass.max(cutlass.min(index, total - 1), 0)
        place = known // self.tiles_of_group
        group = self.nth_group(place)
        m_cluster, n_cluster = self.bands.tile(known - place * of_group)
        first, end = self.columns_of(group)
        count = cute.ceil_div(end - first, BLOCK)
        return RaggedWorkTile(
            index=index,
            row=(m_cluster * self.cluster_m + rank_m) * self.block_m,
            row_end=self.m,
            n_tile=n_cluster * self.cluster_n + rank_n,
            m_group=Int32(0),
            group=Int32(0),
            shares_b=Boolean(True),
            # The next group's first column is at least one further, and behind this one's last block.
            k_start=first // BLOCK + group,
            k_count=count,
            k_element=first,
            k_last=end - first - cutlass.max(count - 1, 0) * BLOCK,
            k_group=group,
            is_valid=index < total,
            is_padding=Boolean(False),
        )

    def columns_of(self, group: Int32) -> tuple[Int32, Int32]:
        """The first column of ``group``, and the one behind its last, which is not before."""
        first = self.edge(group)
        return first, cutlass.max(self.edge(group + 1), first)

    def edge(self, place: Int32) -> Int32:
        """An edge as it counts, whatever memory holds."""
        return cutlass.max(cutlass.min(self.edges[place], self.k), 0) // K_MULTIPLE * K_MULTIPLE


@dataclass(frozen=True, kw_only=True)
class KGroupedAddingScheduler(KGroupedScheduler):
    """The same without groups that have no columns: for sums that are added to what D holds.

    ``table[0]`` counts groups that have some; these follow, in order.
    """

    table_entries: ClassVar[int] = MAX_GROUPS + 1

    @cute.jit
    def prepare(self, table: cute.Tensor, tidx: Int32) -> "KGroupedAddingScheduler":
        """Has the first warp fill ``table``: each lane its own share of groups that follow each other."""
        if tidx < warp.SIZE:
            first, last = self.share(tidx)
            own = Int32(0)
            for group in cutlass.range(first, last, unroll=4):
                own += self.has_columns(group)
            before = warp.sum_before(own, self.groups)
            if tidx == warp.SIZE - 1:
                table[0] = before + own
            for group in cutlass.range(first, last, unroll=4):
                if self.has_columns(group) != 0:
                    before += 1
                    table[before] = group
        cute.arch.sync_threads()
        return replace(self, table=table)

    def share(self, lane: Int32) -> tuple[Int32, Int32]:
        """The groups of ``lane``: its first, and the one behind its last."""
        size = cute.ceil_div(self.groups, warp.SIZE)
        return cutlass.min(lane * size, self.groups), cutlass.min(lane * size + size, self.groups)

    def has_columns(self, group: Int32) -> Int32:
        """1, or 0."""
        first, end = self.columns_of(group)
        return Int32(end > first)

    def groups_in_schedule(self) -> Int32:
        return self.table[0]

    @cute.jit
    def nth_group(self, place: Int32) -> Int32:
        group = Int32(0)
        if self.table[0] > 0:
            group = self.table[1 + place]
        return group
