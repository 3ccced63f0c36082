"""Scales of A per row and k-block, and of B per row, which is a column of D, and k-block.

Both vary from element to element of a partial sum, so promotion takes two operations an element: their
product, and what adds the scaled sum.
"""

from dataclasses import dataclass
from typing import ClassVar

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32
from cutlass.cute.nvgpu import cpasync

from ...plan.limits import MMA_M, ceil_div
from ..sm90.opaque import hide_lane
from ..sm90.threads import WARP
from ..sm90.tma import along_k, load_atom
from .columns import GROUP

ROUNDS = 2
"""Of the ring, for which scales stay: see :class:`Scaling1D1D`."""


@dataclass(frozen=True)
class StagedRows:
    """Scales of the rows of one operand in the kernel, and where they go.

    Args:
        atom: TMA's copy.
        matrices: scales (rows, k-blocks, matrices), by TMA's coordinates.
    """

    atom: cute.CopyAtom
    matrices: cute.Tensor


@dataclass(frozen=True)
class ScaleSlots:
    """Shared memory of the scales of one operand: a slot for each stage and each of :data:`ROUNDS`."""

    rows: int
    stages: int

    @property
    def layout(self) -> cute.Layout:
        """(rows, 1, slots); a slot begins where TMA can write."""
        step = WARP * ceil_div(self.rows, WARP)
        return cute.make_layout((self.rows, 1, ROUNDS * self.stages), stride=(1, step, step))

    @property
    def storage(self):
        """As a field of a ``cute.struct``."""
        return cute.struct.Align[cute.struct.MemRange[Float32, cute.cosize(self.layout)], 128]

    def of(self, state, filling: bool = False) -> Int32:
        """The slot that goes with a state of the ring; the phase of whoever fills it is the other one."""
        phase = state.phase ^ 1 if filling else state.phase
        return state.index + self.stages * phase


@dataclass(frozen=True)
class Scaling1D1D:
    """Both kinds of scales come with the stages, by TMA: they are M-major, on 16 bytes.

    A stage is given back before its last sums are promoted, and those still need scales, of as many columns
    as a thread has: so they stay in shared memory. There a slot is filled again only when the
    ring comes round for the second time, which it does not before the stage that follows is given back,
    behind that promotion.

    Args:
        block_m, block_n: rows and columns of a tile.
        m_fragments: 64-row fragments of a math warpgroup, one below the other.
        fragment_n: columns of a fragment.
        stages: of the ring.
        multicast: one CTA loads the scales of A for all that share A.
    """

    block_m: int
    block_n: int
    m_fragments: int
    fragment_n: int
    stages: int
    multicast: bool

    group: ClassVar[int] = GROUP
    fetches_ahead: ClassVar[bool] = False

    @property
    def slots_a(self) -> ScaleSlots:
        """Of the scales of A."""
        return ScaleSlots(self.block_m, self.stages)

    @property
    def slots_b(self) -> ScaleSlots:
        """Of the scales of B."""
        return ScaleSlots(self.block_n, self.stages)

    @property
    def stage_bytes(self) -> int:
        """That TMA brings with a stage."""
        return 4 * (self.block_m + self.block_n)

    @property
    def Storage(self):
        """Its shared memory."""

        @cute.struct
        class Storage:
            sSFA: self.slots_a.storage
            sSFB: self.slots_b.storage

        return Storage

    def operands(self, mSFA: cute.Tensor, mSFB: cute.Tensor) -> tuple[StagedRows, StagedRows]:
        """As :meth:`base.Scaling.operands`."""
        of_a = load_atom(mSFA, self.slots_a.layout, (self.block_m, 1), self.multicast)
        of_b = load_atom(mSFB, self.slots_b.layout, (self.block_n, 1))
        return StagedRows(*of_a), StagedRows(*of_b)

    def prefetch(self, operands):
        """Fetches the descriptors that TMA goes by."""
        for each in operands:
            cpasync.prefetch_descriptor(each.atom)

    def open(self, storage) -> tuple[cute.Tensor, cute.Tensor]:
        """(bM, 1, slots) and (bN, 1, slots)."""
        return storage.sSFA.get_tensor(self.slots_a.layout), storage.sSFB.get_tensor(self.slots_b.layout)

    def along_k(self, operands, shared, tile) -> tuple:
        """As :func:`tma.along_k`, of both."""
        (of_a, of_b), (sSFA, sSFB) = operands, shared
        first_column = tile.n_tile * self.block_n
        return (
            along_k(of_a.atom, of_a.matrices, sSFA, (self.block_m, 1), tile.row, tile.m_group),
            along_k(of_b.atom, of_b.matrices, sSFB, (self.block_n, 1), first_column, tile.group),
        )

    def load(self, operands, parts, k: Int32, state, barrier, mask: Int32):
        """As :meth:`base.Scaling.load`: the scales of A."""
        tSsS, tSgS = parts[0]  # (TMA, slots), (TMA, restK)
        slot = self.slots_a.of(state, filling=True)
        cute.copy(operands[0].atom, tSgS[None, k], tSsS[None, slot], tma_bar_ptr=barrier, mcast_mask=mask)

    def load_own(self, operands, parts, k: Int32, state, barrier):
        """As :class:`base.Scaling` says: the scales of B."""
        tSsS, tSgS = parts[1]
        slot = self.slots_b.of(state, filling=True)
        cute.copy(operands[1].atom, tSgS[None, k], tSsS[None, slot], tma_bar_ptr=barrier)

    def feed(self, operands, shared, row: Int32) -> "Feed1D1D":
        """As :meth:`base.Scaling.feed`."""
        sSFA, sSFB = shared
        column = cute.arch.lane_idx() % 4 * 2
        return Feed1D1D(
            self,
            hide_lane(sSFA.iterator.toint() + 4 * row),
            hide_lane(sSFB.iterator.toint() + 4 * column),
        )


@dataclass(frozen=True)
class Feed1D1D:
    """What a math thread asks: as :class:`base.Feed`."""

    scaling: Scaling1D1D
    rows: Int32  # address of the scale of this thread's first row, in the first slot
    columns: Int32  # the same of its first column

    def start(self, tile):
        """Nothing: TMA fetches all."""

    def promotion(self, tile) -> "Promotion1D1D":
        """The same for all tiles."""
        return Promotion1D1D(self.scaling.fragment_n)

    def begin(self, tile):
        """Nothing to do before the first k-block."""

    def read(self, state) -> tuple[Int32, Int32]:
        """Addresses of the scales of A and of B in a stage: loaded here, they would be too many registers."""
        slots_a, slots_b = self.scaling.slots_a, self.scaling.slots_b
        step_a, step_b = slots_a.layout.stride[2], slots_b.layout.stride[2]
        return self.rows + 4 * step_a * slots_a.of(state), self.columns + 4 * step_b * slots_b.of(state)

    def hand_out(self, staged, tile, k: Int32, place):
        """What was read."""
        return staged


@dataclass(frozen=True)
class Promotion1D1D:
    """Adds partial sums to accumulators; ``scales`` are where :meth:`Feed1D1D.read` says that they are."""

    fragment_n: int

    @cute.jit
    def __call__(self, acc, partial, scales, m: int, n: int):
        """As :meth:`base.Feed.promotion` says."""
        rows, columns = scales
        of_rows = [shared_floats(rows + 4 * (MMA_M * m + 8 * half), 1)[0] for half in range(2)]
        for eight_columns in cutlass.range_constexpr(self.fragment_n // 8):
            pair = shared_floats(columns + 4 * (n * self.fragment_n + 8 * eight_columns), 2)
            for half in cutlass.range_constexpr(2):
                for column in cutlass.range_constexpr(2):
                    i = 4 * eight_columns + 2 * half + column
                    acc[i] = acc[i] + partial[i] * (of_rows[half] * pair[column])


def shared_floats(address: Int32, count: int):
    """So many floats at an address of shared memory, which is a multiple of their size, by one load."""
    pointer = cute.make_ptr(Float32, address, cutlass.AddressSpace.smem, assumed_align=4 * count)
    return cute.make_tensor(pointer, cute.make_layout(count)).load()
