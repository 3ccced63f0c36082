"""Scales of A that come with the stages of the ring, by TMA."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32
from cutlass.cute.nvgpu import cpasync

from ..sm90.opaque import hide_lane
from ..sm90.tma import along_k, load_atom
from .columns import GROUP, ColumnScales, coordinates, from_quad
from .scaling_1d2d import Promotion1D2D, Scaling1D2D


@dataclass(frozen=True)
class StagedScales:
    """Scales in the kernel."""

    atom: cute.CopyAtom
    matrices: cute.Tensor  # scales of A (M, k-blocks, matrices), by TMA's coordinates
    mSFB: cute.Tensor  # (scale blocks of N, k-blocks, matrices)


@dataclass(frozen=True)
class StagedScaling(Scaling1D2D):
    """Scales of A must be M-major, on 16 bytes, and a tile's first row a multiple of four.

    A stage has those of ``block_m`` rows for its k-block. That is a few whole lines, where a load by quads
    takes a line for one or two rows (docs/performance.md, 45 and 52). With ``multicast`` one CTA loads them
    for all that share A.
    """

    stages: int
    multicast: bool

    @property
    def stage_bytes(self) -> int:
        """That TMA brings with a stage."""
        return 4 * self.block_m

    @property
    def layout(self) -> cute.Layout:
        """In shared memory: (bM, 1, stages)."""
        return cute.make_layout((self.block_m, 1, self.stages), stride=(1, self.block_m, self.block_m))

    @property
    def Storage(self):
        """Its shared memory."""

        @cute.struct
        class Storage:
            sSFA: cute.struct.Align[cute.struct.MemRange[Float32, self.block_m * self.stages], 1024]

        return Storage

    def operands(self, mSFA: cute.Tensor, mSFB: cute.Tensor) -> StagedScales:
        """As :meth:`base.Scaling.operands`."""
        return StagedScales(*load_atom(mSFA, self.layout, (self.block_m, 1), self.multicast), mSFB)

    def prefetch(self, operands):
        """Fetches the descriptor that TMA goes by."""
        cpasync.prefetch_descriptor(operands.atom)

    def open(self, storage) -> cute.Tensor:
        """(bM, 1, stages)."""
        return storage.sSFA.get_tensor(self.layout)

    def along_k(self, operands: StagedScales, shared: cute.Tensor, tile) -> tuple:
        """As :func:`tma.along_k`."""
        box = self.block_m, 1
        return along_k(operands.atom, operands.matrices, shared, box, tile.row, tile.m_group)

    def load(self, operands: StagedScales, parts, k: Int32, state, barrier, mask: Int32):
        """As :meth:`base.Scaling.load`."""
        tSsS, tSgS = parts  # (TMA, stages), (TMA, restK)
        cute.copy(operands.atom, tSgS[None, k], tSsS[None, state.index], tma_bar_ptr=barrier, mcast_mask=mask)

    def feed(self, operands: StagedScales, shared: cute.Tensor, row: Int32) -> "StagedFeed":
        """As :meth:`base.Scaling.feed`."""
        address = hide_lane(shared.iterator.toint() + 4 * row)
        pointer = cute.make_ptr(Float32, address, cutlass.AddressSpace.smem, assumed_align=4)
        return StagedFeed(
            self,
            cute.make_tensor(pointer, shared.layout),
            ColumnScales.make(operands.mSFB, self.columns),
            cute.make_rmem_tensor((self.columns.count,), Float32),
            cute.make_rmem_tensor((self.columns.count,), Float32),
        )


@dataclass(frozen=True)
class StagedFeed:
    """As :class:`loaded.LoadedFeed`, but those of A are read from the stage that is in use.

    They are read in front of the k-block's WGMMAs, and B's are shuffled a k-block ahead: else their product,
    and the wait for both, stands between the first two WGMMAs (docs/performance.md, 52).

    Each warp gives a stage back behind its WGMMAs, which all of its lanes wait for together: they have read
    its scales by then.
    """

    scaling: Scaling1D2D
    sSFA: cute.Tensor  # (bM, 1, stages), from this thread's first row on
    columns: ColumnScales
    rB: cute.Tensor  # (scales of B,): the group in use
    rNow: cute.Tensor  # (scales of B,): those of the next k-block

    @cute.jit
    def start(self, tile):
        """Goes to ``tile``, and fetches the first group of B's scales."""
        self.columns.start(tile)
        self.columns.fetch(tile, Int32(0))

    def promotion(self, tile) -> Promotion1D2D:
        """As :meth:`base.Feed.promotion`."""
        return self.scaling.promotion(tile)

    @cute.jit
    def begin(self, tile):
        """Has the scales of B of the first k-block ready, and fetches the second group."""
        self.advance(tile, Int32(0), 0)

    def read(self, state) -> list[list[Float32]]:
        """The scales of A in a stage: ``[m-fragment][row half]``."""
        m_fragments = range(self.scaling.m_fragments)
        return [[self.sSFA[64 * m + 8 * half, 0, state.index] for half in range(2)] for m in m_fragments]

    @cute.jit
    def hand_out(self, staged, tile, k: Int32, place):
        """As :meth:`loaded.LoadedFeed.hand_out`."""
        scales = [[[a * self.rNow[i] for i in coordinates(self.rNow)] for a in halves] for halves in staged]
        self.advance(tile, k + 1, (place + 1) % GROUP)
        return scales

    @cute.jit
    def advance(self, tile, k: Int32, place):
        """Goes on to k-block ``k``, which is at ``place`` in its group."""
        if place == 0:
            for i in coordinates(self.rB):
                self.rB[i] = self.columns.fetched[i]
            self.columns.fetch(tile, k + GROUP)
        for i in coordinates(self.rB):
            self.rNow[i] = from_quad(self.rB[i], place)
