"""The schedule of a dense GEMM."""

from dataclasses import dataclass
from typing import ClassVar

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Constexpr, Int32

from .base import WorkTile
from .raster import Bands


@dataclass(frozen=True)
class DenseScheduler:
    """Tiles of an ``[m, n]`` output, counted in whole clusters.

    The first three fields are fixed when the kernel is compiled, the others arrive with a call.
    """

    table_entries: ClassVar[int] = 0
    has_padding: ClassVar[bool] = False
    reads_memory: ClassVar[bool] = False

    block_m: Constexpr[int]
    cluster_m: Constexpr[int]
    cluster_n: Constexpr[int]
    bands: Bands  # of clusters
    m: Int32
    k_blocks: Int32
    max_clusters: Int32

    @classmethod
    def to_params(
        cls, m, n, k_blocks, groups, grouping, num_sms, *, block_mn, cluster_mnk, raster_width
    ) -> "DenseScheduler":
        """The schedule of one call; ``grouping`` is empty."""
        return cls(
            block_m=block_mn[0],
            cluster_m=cluster_mnk[0],
            cluster_n=cluster_mnk[1],
            bands=Bands.make(
                cute.ceil_div(m, block_mn[0] * cluster_mnk[0]),
                cute.ceil_div(n, block_mn[1] * cluster_mnk[1]),
                raster_width,
            ),
            m=m,
            k_blocks=k_blocks,
            max_clusters=cutlass.max(num_sms // (cluster_mnk[0] * cluster_mnk[1]), 1),
        )

    @property
    def varying(self) -> tuple[str, ...]:
        """The fields of a tile that may differ from those of the first."""
        return "is_valid", "row", "n_tile"

    @cute.jit
    def grid_shape(self):
        """CTAs to launch: as many clusters as fit at once, or as there are tiles for."""
        clusters = cutlass.min(self.bands.m_tiles * self.bands.n_tiles, self.max_clusters)
        return (self.cluster_m, self.cluster_n, clusters)

    def prepare(self, table, tidx) -> "DenseScheduler":
        """The same: nothing about it depends on data."""
        return self

    @cute.jit
    def initial_work(self) -> WorkTile:
        """The first tile of the calling CTA."""
        rank_m, rank_n, cluster = cute.arch.block_idx()
        return self.work(cluster, rank_m, rank_n)

    def at(self, index: Int32) -> WorkTile:
        """Tile ``index`` of the schedule, as seen by the calling CTA."""
        rank_m, rank_n, _ = cute.arch.block_idx()
        return self.work(index, rank_m, rank_n)

    @cute.jit
    def work(self, index: Int32, rank_m: Int32, rank_n: Int32) -> WorkTile:
        """Tile ``index`` of the schedule, as seen by the CTA at ``(rank_m, rank_n)`` of its cluster.

        Past the end it is the last tile, marked invalid: a role may prepare for it before it looks.
        """
        total = self.bands.m_tiles * self.bands.n_tiles
        m_cluster, n_cluster = self.bands.tile(cutlass.min(index, total - 1))
        return WorkTile(
            index=index,
            row=(m_cluster * self.cluster_m + rank_m) * self.block_m,
            row_end=self.m,
            n_tile=n_cluster * self.cluster_n + rank_n,
            m_group=Int32(0),
            group=Int32(0),
            shares_b=Boolean(True),
            k_start=Int32(0),
            k_count=self.k_blocks,
            is_padding=Boolean(False),
            is_valid=index < total,
        )
