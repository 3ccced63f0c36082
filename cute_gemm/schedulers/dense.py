"""Static persistent schedule of a dense GEMM: cluster c takes tiles c, c + C, c + 2C, ..."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from .base import WorkTile
from .raster import banded


@dataclass(frozen=True)
class DenseScheduler:
    """Tiles of an ``[m, n]`` output, counted in whole clusters.

    The first three fields are fixed when the kernel is compiled, the others arrive with a call.
    """

    cluster_m: int
    cluster_n: int
    raster: int
    m_clusters: Int32
    n_clusters: Int32
    k_blocks: Int32
    max_clusters: Int32

    @staticmethod
    def to_params(m, n, k_blocks, num_sms, *, block_mn, cluster_mn, raster) -> "DenseScheduler":
        """The schedule of one call, from the problem's extents and the SMs it may use."""
        return DenseScheduler(
            cluster_m=cluster_mn[0],
            cluster_n=cluster_mn[1],
            raster=raster,
            m_clusters=cute.ceil_div(m, block_mn[0] * cluster_mn[0]),
            n_clusters=cute.ceil_div(n, block_mn[1] * cluster_mn[1]),
            k_blocks=k_blocks,
            max_clusters=cutlass.max(num_sms // (cluster_mn[0] * cluster_mn[1]), 1),
        )

    @cute.jit
    def grid_shape(self):
        """CTAs to launch: as many clusters as fit at once, or as there are tiles for."""
        clusters = cutlass.min(self.m_clusters * self.n_clusters, self.max_clusters)
        return (self.cluster_m, self.cluster_n, clusters)

    @cute.jit
    def initial_work(self) -> WorkTile:
        """The first tile of the calling CTA."""
        block_m, block_n, cluster = cute.arch.block_idx()
        return self.work(cluster, block_m, block_n)

    @cute.jit
    def advance(self, tile: WorkTile) -> WorkTile:
        """The tile after ``tile`` of the calling CTA."""
        block_m, block_n, _ = cute.arch.block_idx()
        _, _, clusters = cute.arch.grid_dim()
        return self.work(tile.index + clusters, block_m, block_n)

    @cute.jit
    def work(self, index: Int32, block_m: Int32, block_n: Int32) -> WorkTile:
        """Tile ``index`` of the schedule, as seen by the CTA at ``(block_m, block_n)`` of its cluster.

        Past the end it is the last tile, marked invalid: a role may prepare for it before it looks.
        """
        total = self.m_clusters * self.n_clusters
        within = cutlass.min(index, total - 1)
        m_cluster, n_cluster = banded(within, self.m_clusters, self.n_clusters, self.raster)
        return WorkTile(
            index=index,
            m_tile=m_cluster * self.cluster_m + block_m,
            n_tile=n_cluster * self.cluster_n + block_n,
            group=Int32(0),
            k_start=Int32(0),
            k_count=self.k_blocks,
            is_valid=index < total,
        )
