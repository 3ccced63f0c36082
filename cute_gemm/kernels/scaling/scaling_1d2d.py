"""Scales of A per row and k-block, of B per block of columns and k-block."""

from dataclasses import dataclass
from typing import ClassVar

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from ..sm90.threads import WARP
from .columns import GROUP, ScaleColumns
from .promotion import StraddlingPromotion, UniformPromotion

SECTOR = 8
"""Scales in a sector of 32 bytes, the least that memory hands over."""


@dataclass(frozen=True)
class Promotion1D2D:
    """Adds partial sums of one tile to accumulators.

    Args:
        of_fragment: adds those of a fragment.
        splits: for each fragment along N, what ``of_fragment.split`` returned for its first column.
        per_fragment: scales of B of a fragment.
    """

    of_fragment: UniformPromotion | StraddlingPromotion
    splits: tuple[Int32, ...]
    per_fragment: int

    def __call__(self, acc, partial, scales, m: int, n: int):
        """As :meth:`base.Feed.promotion` says; ``scales`` are ``[m-fragment][row half][scale of B]``."""
        own = slice(n * self.per_fragment, (n + 1) * self.per_fragment)
        self.of_fragment(acc, partial, [half[own] for half in scales[m]], self.splits[n])


@dataclass(frozen=True)
class Scales:
    """Scales in the kernel, both (rows or blocks, k-blocks, matrices)."""

    mSFA: cute.Tensor
    mSFB: cute.Tensor


@dataclass(frozen=True)
class Scaling1D2D:
    """What both ways of such scales have in common; they differ in how scales of A come.

    Args:
        block_m: rows of a tile.
        m_fragments: 64-row fragments of a math warpgroup, one below the other.
        columns: which scales of B a tile takes.
        of_fragment: what adds the partial sums of a fragment.
        fetches_ahead: whether a spare warp runs :meth:`fetch_ahead`.
    """

    block_m: int
    m_fragments: int
    columns: ScaleColumns
    of_fragment: UniformPromotion | StraddlingPromotion
    fetches_ahead: bool

    group: ClassVar[int] = GROUP
    stage_bytes: ClassVar[int] = 0

    def promotion(self, tile) -> Promotion1D2D:
        """As :meth:`base.Feed.promotion`."""
        first = tile.n_tile * self.columns.block_n
        fragments = range(self.columns.block_n // self.columns.fragment_n)
        splits = tuple(self.of_fragment.split(first + n * self.columns.fragment_n) for n in fragments)
        return Promotion1D2D(self.of_fragment, splits, self.columns.per_fragment)

    @cute.jit
    def fetch_ahead(self, operands: Scales, tiles):
        """As :meth:`base.Scaling.fetch_ahead`, where scales are not staged.

        Scales that are contiguous along K are asked for by the sector, and those of A once for tiles of the
        same rows that follow each other (docs/performance.md, 12 and 54): a feed looks four k-blocks ahead,
        which with a cold L2 and few rows pass faster than DRAM answers.
        """
        mSFA, mSFB = operands.mSFA, operands.mSFB
        lane = cute.arch.lane_idx()
        step = Int32(1)
        if mSFA.stride[1] == 1:
            step = Int32(SECTOR)
        num_b = self.columns.blocks
        tile, state = tiles.scheduler.initial_work(), tiles.start()
        has_new_rows = tile.is_valid
        while tile.is_valid:
            for k in cutlass.range(tile.k_start, tile.k_start + tile.k_count, step, unroll=1):
                if has_new_rows:
                    for i in cutlass.range_constexpr(-(-self.block_m // WARP)):
                        prefetch(mSFA, tile.row + i * WARP + lane, tile.row_end, k, tile.m_group)
                if lane < num_b * step:
                    block = self.columns.row(tile.n_tile, 0) + lane % num_b
                    prefetch(mSFB, block, mSFB.shape[0], k + lane // num_b, tile.group)
            following, state = tiles.after(tile, state)
            has_new_rows = following.row != tile.row or following.m_group != tile.m_group
            tile = following


@cute.jit
def prefetch(tensor: cute.Tensor, row: Int32, row_end: Int32, k: Int32, matrix: Int32):
    """Asks L2 for a scale of (rows, k-blocks, matrices), if its row is before ``row_end``."""
    if row < row_end and k < tensor.shape[1]:
        offset = row * Int32(tensor.stride[0]) + k * Int32(tensor.stride[1])
        offset += matrix * Int32(tensor.stride[2])
        cute.arch.prefetch((tensor.iterator + offset).to_llvm_ptr(), cache_level="L2")
