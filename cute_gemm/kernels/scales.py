"""How a math thread comes by the scales of its rows: loaded a group ahead, handed out by shuffles."""

from dataclasses import dataclass
from itertools import product

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, const_expr

from ..problem import BLOCK_K
from .hopper import WARP, hide_lane

GROUP = 4
"""k-blocks that a load fetches: one for each of the four lanes that hold the same rows of an accumulator."""

FETCH_AT = {1: ((0,), 0), 2: ((0, 1), 2)}
"""By waves: at which place in a group each wave's next scales of A, and the next ones of B, are fetched.

All loads of two waves at once, five at 256 x 128, held up the next WGMMA: 1.5 % at 4096 x 7168 x 16384. One
wave has no more than four, and tiles of 128 x 160 lost 1 to 2 % by spreading them (2026-11-23).
"""

SECTOR = 8
"""Scales in a sector of 32 bytes, the least that memory hands over."""


@dataclass(frozen=True)
class ScaleFeed:
    """Combined scales ``scale_a[row, k] * scale_b[column block, k]`` of the calling thread's rows.

    WGMMA gives the lanes of a quad the same rows, so lane q of a quad loads and keeps k-block ``4 g + q`` of
    group g: one register a row for four k-blocks, eight rows by four k-blocks a load instruction. That reads
    few sectors whether scales are row-major or M-major, and needs no alignment, no shared memory and no
    barrier. A group is fetched while the one before is in use, by loads that ``FETCH_AT`` spreads over it.

    Offsets are 32-bit: 64-bit addresses took 68 instructions a group instead of 20, 7 % of a large GEMM
    (2026-11-23).
    """

    mSFA: cute.Tensor  # (M, K / 128, matrices)
    mSFB: cute.Tensor  # (N / 128, K / 128, matrices)
    lane_k: Int32  # which k-block of a group this lane holds
    rA_offset: cute.Tensor  # (2 row halves, waves)
    rB_offset: cute.Tensor  # (scale blocks of B,)
    rA: cute.Tensor  # (2 row halves, waves): the group being fetched
    rB: cute.Tensor  # (scale blocks of B,)
    rHeld: cute.Tensor  # (scale blocks of B, 2 row halves, waves): the group in use

    @staticmethod
    def make(mSFA, mSFB, waves: int, num_b: int) -> "ScaleFeed":
        """A feed for ``waves`` fragments of 64 rows and ``num_b`` scale blocks of B a tile."""
        return ScaleFeed(
            mSFA,
            mSFB,
            lane_k=hide_lane(cute.arch.lane_idx() % GROUP),
            rA_offset=cute.make_rmem_tensor((2, waves), Int32),
            rB_offset=cute.make_rmem_tensor((num_b,), Int32),
            rA=cute.make_rmem_tensor((2, waves), Float32),
            rB=cute.make_rmem_tensor((num_b,), Float32),
            rHeld=cute.make_rmem_tensor((num_b, 2, waves), Float32),
        )

    @cute.jit
    def start(self, tile, first_row: Int32, block_n: int):
        """Turns to ``tile``, of which this thread's rows begin at ``first_row``, and fetches the first group.

        Rows and column blocks beyond the end are clamped: their products are never stored.
        """
        matrix = tile.m_group * Int32(self.mSFA.stride[2])
        for half, wave in coordinates(self.rA):
            row = cutlass.min(tile.row + first_row + (64 * wave + 8 * half), self.mSFA.shape[0] - 1)
            self.rA_offset[half, wave] = matrix + row * Int32(self.mSFA.stride[0])
        matrix = tile.group * Int32(self.mSFB.stride[2])
        for (b,) in coordinates(self.rB):
            row = cutlass.min(tile.n_tile * block_n // BLOCK_K + b, self.mSFB.shape[0] - 1)
            self.rB_offset[b] = matrix + row * Int32(self.mSFB.stride[0])
        for place in cutlass.range_constexpr(GROUP):
            self.fetch(tile, Int32(0), place)

    @cute.jit
    def fetch(self, tile, k: Int32, place: int):
        """Issues the loads due at ``place`` of the group that begins at k-block ``k`` of ``tile``."""
        waves_at, b_at = FETCH_AT[self.rA.shape[1]]
        k = tile.k_start + cutlass.min(k + self.lane_k, tile.k_count - 1)
        k_offset = k * Int32(self.mSFA.stride[1])
        for half, wave in coordinates(self.rA):
            if const_expr(waves_at[wave] == place):
                self.rA[half, wave] = load(self.mSFA, self.rA_offset[half, wave] + k_offset)
        if const_expr(b_at == place):
            k_offset = k * Int32(self.mSFB.stride[1])
            for i in coordinates(self.rB):
                self.rB[i] = load(self.mSFB, self.rB_offset[i] + k_offset)

    @cute.jit
    def hand_out(self, tile, k: Int32, place):
        """The scales of k-block ``k``, to be asked for in turn: ``[wave][row half][scale block of B]``.

        ``place`` is ``k % GROUP``, which is best known when compiling.
        """
        num_b, halves, waves = self.rHeld.shape
        if place == 0:
            for b, half, wave in coordinates(self.rHeld):
                self.rHeld[b, half, wave] = self.rA[half, wave] * self.rB[b]
        for each in cutlass.range_constexpr(GROUP):
            if place == each:
                self.fetch(tile, k - each + GROUP, each)
        return [
            [[from_quad(self.rHeld[b, half, wave], place) for b in range(num_b)] for half in range(halves)]
            for wave in range(waves)
        ]


@cute.jit
def prefetch_scales(scheduler, mSFA, mSFB, block_m: int, block_n: int, num_b: int):
    """One warp's work: asks L2 for the scales of the calling CTA's tiles, in the order of their use.

    Scales of A that are contiguous along K are asked for by the sector. A feed looks four k-blocks ahead:
    with a cold L2 and a 64-row tile those pass faster than DRAM answers. 64 x 2112 x 7168 took 13.0 us,
    whatever BLOCK_N, and 11.1 with this; tiles of more rows lost up to 8 % by it (2026-11-23).
    """
    lane = cute.arch.lane_idx()
    step = Int32(1)
    if mSFA.stride[1] == 1:
        step = Int32(SECTOR)
    tile = scheduler.initial_work()
    while tile.is_valid:
        for k in cutlass.range(tile.k_start, tile.k_start + tile.k_count, step, unroll=1):
            for i in cutlass.range_constexpr(-(-block_m // WARP)):
                prefetch(mSFA, tile.row + i * WARP + lane, k, tile.m_group)
            if lane < num_b * step:
                prefetch(mSFB, tile.n_tile * block_n // BLOCK_K + lane % num_b, k + lane // num_b, tile.group)
        tile = scheduler.advance(tile)


@cute.jit
def prefetch(tensor: cute.Tensor, row: Int32, k: Int32, matrix: Int32):
    if row < tensor.shape[0] and k < tensor.shape[1]:
        offset = row * Int32(tensor.stride[0]) + k * Int32(tensor.stride[1])
        offset += matrix * Int32(tensor.stride[2])
        cute.arch.prefetch((tensor.iterator + offset).to_llvm_ptr(), cache_level="L2")


def load(tensor: cute.Tensor, offset: Int32) -> Float32:
    """One element of global memory, ``offset`` elements from the start of ``tensor``."""
    return cute.make_tensor(tensor.iterator + offset, cute.make_layout(1))[0]


def from_quad(value: Float32, lane: Int32) -> Float32:
    """``value`` of ``lane``, 0 to 3, of the calling lane's quad."""
    return cute.arch.shuffle_sync(value, lane, mask_and_clamp=(WARP - GROUP) << 8 | 31)


def coordinates(fragment: cute.Tensor) -> list[tuple[int, ...]]:
    """All coordinates of a register fragment."""
    return list(product(*(range(extent) for extent in fragment.shape)))
