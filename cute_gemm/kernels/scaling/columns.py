"""Scales of B for a math thread, and what both ways of scales of A share."""

from dataclasses import dataclass
from itertools import product
from math import gcd

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from ..sm90.opaque import hide_lane
from ..sm90.threads import WARP

GROUP = 4
"""k-blocks that a load fetches: one for each of the four lanes that hold the same rows of an accumulator."""


@dataclass(frozen=True)
class ScaleColumns:
    """Which scales of B a tile takes.

    Args:
        block_n: columns of a tile.
        fragment_n: columns of one of its fragments, each of which has its own scales.
        scale_n: columns that share a scale.
        per_fragment: scale blocks that a fragment may cover.
    """

    block_n: int
    fragment_n: int
    scale_n: int
    per_fragment: int

    @property
    def count(self) -> int:
        """Scales of B that a tile takes for each k-block, those of one fragment after the other."""
        return self.block_n // self.fragment_n * self.per_fragment

    @property
    def blocks(self) -> int:
        """Scale blocks that a tile may cover, wherever it starts."""
        return -(-(self.block_n + self.scale_n - gcd(self.block_n, self.scale_n)) // self.scale_n)

    def row(self, n_tile: Int32, i: int) -> Int32:
        """The row in the scales of B of the ``i``-th of them for a tile; it may lie beyond the last."""
        fragment, b = divmod(i, self.per_fragment)
        column = n_tile * self.block_n + fragment * self.fragment_n
        return column // self.scale_n + b


@dataclass(frozen=True)
class ColumnScales:
    """Scales of B for the calling thread, which are those of all threads, a group of k-blocks ahead.

    Lane q of a quad loads those of k-block ``4 g + q`` of group g. Scale blocks beyond the end are clamped:
    their products are never stored.
    """

    mSFB: cute.Tensor  # (scale blocks of N, k-blocks, matrices)
    which: ScaleColumns
    lane_k: Int32  # which k-block of a group this lane holds
    offset: cute.Tensor  # (scales of B,)
    fetched: cute.Tensor  # (scales of B,)

    @staticmethod
    def make(mSFB, which: ScaleColumns) -> "ColumnScales":
        """For the calling thread, before its first tile."""
        return ColumnScales(
            mSFB,
            which,
            lane_k=hide_lane(cute.arch.lane_idx() % GROUP),
            offset=cute.make_rmem_tensor((which.count,), Int32),
            fetched=cute.make_rmem_tensor((which.count,), Float32),
        )

    @cute.jit
    def start(self, tile):
        """Goes to ``tile``."""
        matrix = tile.group * Int32(self.mSFB.stride[2])
        for (i,) in coordinates(self.offset):
            row = cutlass.min(self.which.row(tile.n_tile, i), self.mSFB.shape[0] - 1)
            self.offset[i] = matrix + row * Int32(self.mSFB.stride[0])

    @cute.jit
    def fetch(self, tile, k: Int32):
        """Issues the loads of the group that begins at k-block ``k`` of ``tile``."""
        k_offset = self.k_block(tile, k) * Int32(self.mSFB.stride[1])
        for i in coordinates(self.fetched):
            self.fetched[i] = load(self.mSFB, self.offset[i] + k_offset)

    def k_block(self, tile, k: Int32) -> Int32:
        """Which k-block of all this lane fetches of the group that begins at ``k`` of ``tile``."""
        return tile.k_start + cutlass.min(k + self.lane_k, tile.k_count - 1)


def load(tensor: cute.Tensor, offset: Int32) -> Float32:
    """One element of global memory, ``offset`` elements from the start of ``tensor``."""
    return cute.make_tensor(tensor.iterator + offset, cute.make_layout(1))[0]


def from_quad(value: Float32, lane: Int32) -> Float32:
    """``value`` of ``lane``, 0 to 3, of the calling lane's quad."""
    return cute.arch.shuffle_sync(value, lane, mask_and_clamp=(WARP - GROUP) << 8 | 31)


def coordinates(registers: cute.Tensor) -> list[tuple[int, ...]]:
    """All coordinates of a tensor in registers."""
    return list(product(*(range(extent) for extent in registers.shape)))
