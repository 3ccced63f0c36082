"""One tile a cluster, whose CTAs share out the k-blocks: for few tiles, which alone would leave SMs idle."""

from dataclasses import dataclass, replace
from typing import ClassVar

import cutlass.cute as cute
from cutlass import Boolean, Constexpr, Int32

from .base import WorkTile
from .dense import DenseScheduler


@dataclass(frozen=True)
class SplitKScheduler:
    """The tiles of a dense GEMM, each for a cluster of ``splits`` CTAs, of as many k-blocks or one more.

    All clusters are launched at once, whether they fit or not. A CTA has one tile and ends with it, so
    partial sums that it was sent are never overwritten by those of a next tile.

    There are at least as many k-blocks as ``splits``.
    """

    table_entries: ClassVar[int] = 0
    has_padding: ClassVar[bool] = False
    reads_memory: ClassVar[bool] = False

    splits: Constexpr[int]
    dense: DenseScheduler

    @classmethod
    def to_params(
        cls, m, n, k_blocks, groups, grouping, num_sms, *, block_mn, cluster_mnk, raster_width
    ) -> "SplitKScheduler":
        """The schedule of one call; ``grouping`` is empty."""
        extents = m, n, k_blocks, groups, grouping, num_sms
        dense = DenseScheduler.to_params(
            *extents, block_mn=block_mn, cluster_mnk=(1, 1, 1), raster_width=raster_width
        )
        return cls(cluster_mnk[2], dense)

    def grid_shape(self):
        """CTAs to launch: a cluster, along the last axis, for each tile."""
        return (1, 1, self.dense.bands.m_tiles * self.dense.bands.n_tiles * self.splits)

    @property
    def varying(self) -> tuple[str, ...]:
        """The fields of a tile that may differ from those of the first."""
        return ("is_valid",)

    def prepare(self, table, tidx) -> "SplitKScheduler":
        """The same: nothing about it depends on data."""
        return self

    @cute.jit
    def initial_work(self) -> WorkTile:
        """The tile of the calling CTA's cluster, and the CTA's own k-blocks."""
        _, _, place = cute.arch.block_idx()
        part = place % self.splits
        tile = self.dense.work(place // self.splits, Int32(0), Int32(0))
        first, end = (part * tile.k_count // self.splits, (part + 1) * tile.k_count // self.splits)
        return replace(tile, k_start=first, k_count=end - first)

    def at(self, index: Int32) -> WorkTile:
        """None but the first."""
        return replace(self.initial_work(), is_valid=Boolean(False))
