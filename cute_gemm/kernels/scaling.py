"""How a math thread comes by the scales of its rows: loaded a group ahead, or with the stages, by TMA.

Both ways are objects that say what they take, as stores are (epilogue.py): ``operands`` of the scales of A,
made on the host, and shared memory, which they ``open``. The TMA warp may ``load`` k-blocks of them, and each
math thread has a ``feed``.
"""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, const_expr
from cutlass.cute.nvgpu import cpasync

from ..plan.limits import BLOCK_K
from .hopper import WARP, along_k, hide_lane, tma_load

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
class ColumnScales:
    """Scales of B for the calling thread, which are those of all threads, a group of k-blocks ahead.

    Lane q of a quad loads those of k-block ``4 g + q`` of group g. Column blocks beyond the end are clamped:
    their products are never stored.
    """

    mSFB: cute.Tensor  # (N / 128, K / 128, matrices)
    lane_k: Int32  # which k-block of a group this lane holds
    offset: cute.Tensor  # (scale blocks of B,)
    fetched: cute.Tensor  # (scale blocks of B,)

    @staticmethod
    def make(mSFB, num_b: int) -> "ColumnScales":
        """For ``num_b`` scale blocks of B a tile."""
        return ColumnScales(
            mSFB,
            lane_k=hide_lane(cute.arch.lane_idx() % GROUP),
            offset=cute.make_rmem_tensor((num_b,), Int32),
            fetched=cute.make_rmem_tensor((num_b,), Float32),
        )

    @cute.jit
    def start(self, tile, block_n: int):
        """Turns to ``tile``."""
        matrix = tile.group * Int32(self.mSFB.stride[2])
        for (b,) in coordinates(self.offset):
            row = cutlass.min(tile.n_tile * block_n // BLOCK_K + b, self.mSFB.shape[0] - 1)
            self.offset[b] = matrix + row * Int32(self.mSFB.stride[0])

    @cute.jit
    def fetch(self, tile, k: Int32):
        """Issues the loads of the group that begins at k-block ``k`` of ``tile``."""
        k_offset = self.k_block(tile, k) * Int32(self.mSFB.stride[1])
        for i in coordinates(self.fetched):
            self.fetched[i] = load(self.mSFB, self.offset[i] + k_offset)

    def k_block(self, tile, k: Int32) -> Int32:
        """Which k-block of all this lane fetches of the group that begins at ``k`` of ``tile``."""
        return tile.k_start + cutlass.min(k + self.lane_k, tile.k_count - 1)


@dataclass(frozen=True)
class LoadedScales:
    """Threads load the scales of A that they need, of any strides, from global memory: no TMA, no barrier."""

    waves: int
    num_b: int

    entries: ClassVar[int] = 0
    """In shared memory."""
    stage_bytes: ClassVar[int] = 0
    """That TMA brings with a stage."""

    def operands(self, mSFA: cute.Tensor) -> tuple:
        """The scales of A."""
        return (mSFA,)

    def prefetch(self, operands):
        """Nothing: there is no descriptor."""

    def open(self, storage):
        """Nothing."""

    def along_k(self, operands, sSFA, tile) -> tuple:
        """Nothing to load."""
        return ()

    def load(self, operands, parts, k: Int32, stage: Int32, barrier, mask: Int32):
        """Nothing."""

    def feed(self, operands, sSFA, mSFB: cute.Tensor, row: Int32) -> "LoadedFeed":
        """What a math thread asks for scales."""
        return LoadedFeed.make(*operands, mSFB, self.waves, self.num_b, row)


@dataclass(frozen=True)
class LoadedFeed:
    """Combined scales ``scale_a[row, k] * scale_b[column block, k]`` of the calling thread's rows.

    WGMMA gives the lanes of a quad the same rows, so lane q of a quad loads and keeps k-block ``4 g + q`` of
    group g: one register a row for four k-blocks, eight rows by four k-blocks a load instruction. That reads
    few sectors whether scales are row-major or M-major, and needs no alignment, no shared memory and no
    barrier. A group is fetched while the one before is in use, by loads that ``FETCH_AT`` spreads over it.

    Offsets are 32-bit: 64-bit addresses took 68 instructions a group instead of 20, 7 % of a large GEMM
    (2026-11-23).
    """

    mSFA: cute.Tensor  # (M, K / 128, matrices)
    row: Int32  # the first of this thread's in a tile
    rA_offset: cute.Tensor  # (2 row halves, waves)
    rA: cute.Tensor  # (2 row halves, waves): the group being fetched
    columns: ColumnScales
    rHeld: cute.Tensor  # (scale blocks of B, 2 row halves, waves): the group in use

    @staticmethod
    def make(mSFA, mSFB, waves: int, num_b: int, row: Int32) -> "LoadedFeed":
        """A feed for ``waves`` fragments of 64 rows and ``num_b`` scale blocks of B a tile."""
        return LoadedFeed(
            mSFA,
            row,
            rA_offset=cute.make_rmem_tensor((2, waves), Int32),
            rA=cute.make_rmem_tensor((2, waves), Float32),
            columns=ColumnScales.make(mSFB, num_b),
            rHeld=cute.make_rmem_tensor((num_b, 2, waves), Float32),
        )

    @cute.jit
    def start(self, tile, block_n: int):
        """Turns to ``tile``, and fetches the first group.

        Rows beyond the end are clamped: their products are never stored.
        """
        matrix = tile.m_group * Int32(self.mSFA.stride[2])
        for half, wave in coordinates(self.rA):
            row = cutlass.min(tile.row + self.row + (64 * wave + 8 * half), self.mSFA.shape[0] - 1)
            self.rA_offset[half, wave] = matrix + row * Int32(self.mSFA.stride[0])
        self.columns.start(tile, block_n)
        for place in cutlass.range_constexpr(GROUP):
            self.fetch(tile, Int32(0), place)

    @cute.jit
    def fetch(self, tile, k: Int32, place: int):
        """Issues the loads due at ``place`` of the group that begins at k-block ``k`` of ``tile``."""
        waves_at, b_at = FETCH_AT[self.rA.shape[1]]
        k_offset = self.columns.k_block(tile, k) * Int32(self.mSFA.stride[1])
        for half, wave in coordinates(self.rA):
            if const_expr(waves_at[wave] == place):
                self.rA[half, wave] = load(self.mSFA, self.rA_offset[half, wave] + k_offset)
        if const_expr(b_at == place):
            self.columns.fetch(tile, k)

    def begin(self, tile):
        """Nothing to do before the first k-block."""

    def read(self, stage: Int32) -> None:
        """Nothing is staged."""

    @cute.jit
    def hand_out(self, staged, tile, k: Int32, place):
        """The scales of k-block ``k``, to be asked for in turn: ``[wave][row half][scale block of B]``.

        ``staged`` is what :meth:`read` returned; ``place`` is ``k % GROUP``, best known when compiling.
        """
        num_b, halves, waves = self.rHeld.shape
        if place == 0:
            for b, half, wave in coordinates(self.rHeld):
                self.rHeld[b, half, wave] = self.rA[half, wave] * self.columns.fetched[b]
        for each in cutlass.range_constexpr(GROUP):
            if place == each:
                self.fetch(tile, k - each + GROUP, each)
        return [
            [[from_quad(self.rHeld[b, half, wave], place) for b in range(num_b)] for half in range(halves)]
            for wave in range(waves)
        ]


@dataclass(frozen=True)
class StagedScales:
    """The scales of A come with the stages of the ring, by TMA: they must be M-major, on 16 bytes.

    A stage has those of ``block_m`` rows for its k-block. That is a few whole lines, where a load by quads
    takes a line for one or two rows: large GEMMs take 1 to 3 % less (2026-11-25). With ``multicast`` one CTA
    loads them for all that share A.
    """

    block_m: int
    stages: int
    waves: int
    num_b: int
    multicast: bool

    @property
    def entries(self) -> int:
        """In shared memory."""
        return self.block_m * self.stages

    @property
    def stage_bytes(self) -> int:
        """That TMA brings with a stage."""
        return 4 * self.block_m

    @property
    def layout(self) -> cute.Layout:
        """In shared memory: (bM, 1, stages)."""
        return cute.make_layout((self.block_m, 1, self.stages), stride=(1, self.block_m, self.block_m))

    def operands(self, mSFA: cute.Tensor) -> tuple:
        """TMA's atom and view of the scales of A."""
        return tma_load(mSFA, self.layout, (self.block_m, 1), self.multicast)

    def prefetch(self, operands):
        """Fetches the descriptor that TMA goes by."""
        cpasync.prefetch_descriptor(operands[0])

    def open(self, storage) -> cute.Tensor:
        """The stages."""
        return storage.get_tensor(self.layout)

    def along_k(self, operands, sSFA: cute.Tensor, tile) -> tuple:
        """Where a tile's scales go to and come from, see hopper.along_k."""
        return along_k(*operands, sSFA, self.block_m, tile.row, tile.m_group, 1)

    def load(self, operands, parts, k: Int32, stage: Int32, barrier, mask: Int32):
        """Loads those of k-block ``k``, of :meth:`along_k`'s parts, into ``stage`` of CTAs ``mask``."""
        (atom, _), (tSsS, tSgS) = operands, parts
        cute.copy(atom, tSgS[None, k], tSsS[None, stage], tma_bar_ptr=barrier, mcast_mask=mask)

    def feed(self, operands, sSFA: cute.Tensor, mSFB: cute.Tensor, row: Int32) -> "StagedFeed":
        """What a math thread asks for scales."""
        return StagedFeed.make(sSFA, mSFB, self.waves, self.num_b, row)


@dataclass(frozen=True)
class StagedFeed:
    """As :class:`LoadedFeed`, but those of A are read from the stage that is in use.

    They are read in front of the k-block's WGMMAs, and B's are shuffled a k-block ahead: else the compiler
    put their product, and the wait for both, between the first two WGMMAs, and 256 x 128 took 1.5 % longer
    (2026-11-25).

    Each warp gives a stage back behind its WGMMAs, which all of its lanes wait for together: they have read
    its scales by then.
    """

    sSFA: cute.Tensor  # (bM, 1, stages), from this thread's first row on
    columns: ColumnScales
    rB: cute.Tensor  # (scale blocks of B,): the group in use
    rNow: cute.Tensor  # (scale blocks of B,): those of the k-block that is next
    waves: int

    @staticmethod
    def make(sSFA, mSFB, waves: int, num_b: int, row: Int32) -> "StagedFeed":
        """A feed for ``waves`` fragments of 64 rows and ``num_b`` scale blocks of B a tile."""
        address = hide_lane(sSFA.iterator.toint() + 4 * row)
        pointer = cute.make_ptr(Float32, address, cutlass.AddressSpace.smem, assumed_align=4)
        return StagedFeed(
            cute.make_tensor(pointer, sSFA.layout),
            ColumnScales.make(mSFB, num_b),
            cute.make_rmem_tensor((num_b,), Float32),
            cute.make_rmem_tensor((num_b,), Float32),
            waves,
        )

    @cute.jit
    def start(self, tile, block_n: int):
        """Turns to ``tile``, and fetches the first group of B's scales."""
        self.columns.start(tile, block_n)
        self.columns.fetch(tile, Int32(0))

    @cute.jit
    def begin(self, tile):
        """Has the scales of B of the first k-block ready, and fetches the second group."""
        self.turn(tile, Int32(0), 0)

    def read(self, stage: Int32) -> list[list[Float32]]:
        """The scales of A in ``stage``: ``[wave][row half]``."""
        return [
            [self.sSFA[64 * wave + 8 * half, 0, stage] for half in range(2)] for wave in range(self.waves)
        ]

    @cute.jit
    def hand_out(self, staged, tile, k: Int32, place):
        """As :meth:`LoadedFeed.hand_out`."""
        scales = [[[a * self.rNow[i] for i in coordinates(self.rNow)] for a in halves] for halves in staged]
        self.turn(tile, k + 1, (place + 1) % GROUP)
        return scales

    @cute.jit
    def turn(self, tile, k: Int32, place):
        """Turns to k-block ``k``, which is at ``place`` in its group."""
        if place == 0:
            for i in coordinates(self.rB):
                self.rB[i] = self.columns.fetched[i]
            self.columns.fetch(tile, k + GROUP)
        for i in coordinates(self.rB):
            self.rNow[i] = from_quad(self.rB[i], place)


@cute.jit
def prefetch_scales(tiles, mSFA, mSFB, block_m: int, block_n: int, num_b: int):
    """One warp's work: asks L2 for the scales of the calling CTA's tiles of a dense product, in order.

    Those of A are asked for once for tiles of the same rows that follow each other: M-major ones took 18.7 us
    at 1 x 24576 x 1536 for every tile anew, and 17.5 so (2026-11-25).

    Scales of A that are contiguous along K are asked for by the sector. A feed looks four k-blocks ahead:
    with a cold L2 and a 64-row tile those pass faster than DRAM answers. 64 x 2112 x 7168 took 13.0 us,
    whatever BLOCK_N, and 11.1 with this; tiles of more rows lost up to 8 % by it (2026-11-23).
    """
    lane = cute.arch.lane_idx()
    step = Int32(1)
    if mSFA.stride[1] == 1:
        step = Int32(SECTOR)
    tile, state = tiles.scheduler.initial_work(), tiles.start()
    has_new_rows = tile.is_valid
    while tile.is_valid:
        for k in cutlass.range(tile.k_start, tile.k_start + tile.k_count, step, unroll=1):
            if has_new_rows:
                for i in cutlass.range_constexpr(-(-block_m // WARP)):
                    prefetch(mSFA, tile.row + i * WARP + lane, k)
            if lane < num_b * step:
                prefetch(mSFB, tile.n_tile * block_n // BLOCK_K + lane % num_b, k + lane // num_b)
        following, state = tiles.after(tile, state)
        has_new_rows = following.row != tile.row
        tile = following


@cute.jit
def prefetch(tensor: cute.Tensor, row: Int32, k: Int32):
    if row < tensor.shape[0] and k < tensor.shape[1]:
        offset = row * Int32(tensor.stride[0]) + k * Int32(tensor.stride[1])
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
