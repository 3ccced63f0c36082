"""Scales of A that the threads which use them load from global memory, of any strides."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, const_expr

from .columns import GROUP, ColumnScales, coordinates, from_quad, load
from .scaling_1d2d import Promotion1D2D, Scales, Scaling1D2D

FETCH_AT = {1: ((0,), 0), 2: ((0, 1), 2)}
"""By m-fragments: at which place in a group each one's next scales of A, and the next ones of B, are fetched.

The loads of two m-fragments at once hold up the next WGMMA; those of one are best issued together
(docs/performance.md, 25).
"""


@dataclass(frozen=True)
class LoadedScaling(Scaling1D2D):
    """No TMA, no shared memory, no barrier."""

    @property
    def Storage(self):
        """Nothing in shared memory."""

        @cute.struct
        class Storage:
            sSFA: cute.struct.MemRange[Float32, 0]

        return Storage

    def operands(self, mSFA: cute.Tensor, mSFB: cute.Tensor) -> Scales:
        """As they are."""
        return Scales(mSFA, mSFB)

    def prefetch(self, operands):
        """Nothing: there is no descriptor."""

    def open(self, storage):
        """Nothing."""

    def along_k(self, operands, shared, tile) -> tuple:
        """Nothing to load."""
        return ()

    def load(self, operands, parts, k: Int32, state, barrier, mask: Int32):
        """Nothing."""

    def feed(self, operands: Scales, shared, row: Int32) -> "LoadedFeed":
        """As :meth:`base.Scaling.feed`."""
        return LoadedFeed(
            self,
            operands.mSFA,
            row,
            rA_offset=cute.make_rmem_tensor((2, self.m_fragments), Int32),
            rA=cute.make_rmem_tensor((2, self.m_fragments), Float32),
            columns=ColumnScales.make(operands.mSFB, self.columns),
            rHeld=cute.make_rmem_tensor((self.columns.count, 2, self.m_fragments), Float32),
        )


@dataclass(frozen=True)
class LoadedFeed:
    """Combined scales ``scale_a[row, k] * scale_b[column block, k]`` of the calling thread's rows.

    WGMMA gives the lanes of a quad the same rows, so lane q of a quad loads and keeps k-block ``4 g + q`` of
    group g: one register a row for four k-blocks, eight rows by four k-blocks a load instruction. That reads
    few sectors whether scales are row-major or M-major, and needs no alignment, no shared memory and no
    barrier. A group is fetched while the one before is in use, by loads that ``FETCH_AT`` spreads over it.

    Offsets are 32-bit: 64-bit addresses take more than three times as many instructions on the critical path
    (docs/performance.md, 4 and 5).
    """

    scaling: Scaling1D2D
    mSFA: cute.Tensor  # (M, k-blocks, matrices)
    row: Int32  # the first of this thread's in a tile
    rA_offset: cute.Tensor  # (2 row halves, m-fragments)
    rA: cute.Tensor  # (2 row halves, m-fragments): the group being fetched
    columns: ColumnScales
    rHeld: cute.Tensor  # (scales of B, 2 row halves, m-fragments): the group in use

    @cute.jit
    def start(self, tile):
        """Goes to ``tile``, and fetches the first group.

        Rows beyond the end are clamped: their products are never stored. A tile's end may be before it.
        """
        matrix = tile.m_group * Int32(self.mSFA.stride[2])
        last = cutlass.max(tile.row_end - 1, 0)
        for half, m in coordinates(self.rA):
            row = cutlass.min(tile.row + self.row + (64 * m + 8 * half), last)
            self.rA_offset[half, m] = matrix + row * Int32(self.mSFA.stride[0])
        self.columns.start(tile)
        for place in cutlass.range_constexpr(GROUP):
            self.fetch(tile, Int32(0), place)

    def promotion(self, tile) -> Promotion1D2D:
        """As :meth:`base.Feed.promotion`."""
        return self.scaling.promotion(tile)

    @cute.jit
    def fetch(self, tile, k: Int32, place: int):
        """Issues the loads due at ``place`` of the group that begins at k-block ``k`` of ``tile``."""
        a_at, b_at = FETCH_AT[self.rA.shape[1]]
        k_offset = self.columns.k_block(tile, k) * Int32(self.mSFA.stride[1])
        for half, m in coordinates(self.rA):
            if const_expr(a_at[m] == place):
                self.rA[half, m] = load(self.mSFA, self.rA_offset[half, m] + k_offset)
        if const_expr(b_at == place):
            self.columns.fetch(tile, k)

    def begin(self, tile):
        """Nothing to do before the first k-block."""

    def read(self, state) -> None:
        """Nothing is staged."""

    @cute.jit
    def hand_out(self, staged, tile, k: Int32, place):
        """The scales of k-block ``k``, ``[m-fragment][row half][scale of B]``."""
        num_b, halves, m_fragments = self.rHeld.shape
        if place == 0:
            for b, half, m in coordinates(self.rHeld):
                self.rHeld[b, half, m] = self.rA[half, m] * self.columns.fetched[b]
        for each in cutlass.range_constexpr(GROUP):
            if place == each:
                self.fetch(tile, k - each + GROUP, each)
        return [
            [[from_quad(self.rHeld[b, half, m], place) for b in range(num_b)] for half in range(halves)]
            for m in range(m_fragments)
        ]
