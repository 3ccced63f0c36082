"""The dense kernel with marks: one thread of each role writes the SM's clock where something begins or ends.

Only the first CTA writes. Its roles run on one SM and read one counter, so their marks compare. All else is
the library's kernel: what is marked are the calls that roles make of the ring, the mainloop and the work
queue.

Marks are in an Int32 tensor (2, roles, ROWS, MARKS): [0] has a row for each stage that a role went through,
skipped ones as well, in order; [1] one for each tile. What no thread has written stays as it was.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import cutlass.cute as cute
from cutlass import Boolean, Int32, const_expr, pipeline
from cutlass.cute.runtime import make_fake_tensor

from cute_gemm.kernels.epilogue import Identity
from cute_gemm.kernels.gemm_fp8_1d2d import Fp8Gemm1D2D
from cute_gemm.kernels.mainloop import SerialMainloop
from cute_gemm.kernels.sm90.pipelines import Ring
from cute_gemm.kernels.sm90.threads import WARPGROUP
from cute_gemm.kernels.work_queue import WorkQueue
from cute_gemm.plan.config import KernelConfig
from cute_gemm.runtime import Program, build

ROLES = "math warpgroup 0", "math warpgroup 1", "TMA warp"
TMA = 2
ROWS, MARKS = 1024, 8
SHAPE = 2, len(ROLES), ROWS, MARKS

ASKED, GOT = 0, 1
"""Of a stage: a role begins to wait for it, and has it."""
MULTIPLIED, PROMOTED = 2, 3
"""Of a stage's fragment f, at 2 f more: its WGMMAs have ended, and it is promoted."""
BEGUN, SUMMED, LEFT, FOUND = range(4)
"""Of a tile: its mainloop begins, and ends; a role asks for the next tile, and has it."""


@dataclass(frozen=True)
class Marker:
    """Where a role's marks go, and whether the calling thread writes them."""

    marks: cute.Tensor  # (2, ROWS, MARKS)
    writes: Boolean

    @cute.jit
    def stage(self, row: Int32, place: int):
        """Marks that ``place`` of a stage is reached."""
        now = cute.arch.clock()
        if self.writes and row < ROWS:
            self.marks[0, row, place] = now

    @cute.jit
    def tile(self, number: Int32, place: int):
        """Marks that ``place`` of a tile is reached."""
        now = cute.arch.clock()
        if self.writes and number < ROWS:
            self.marks[1, number, place] = now


def with_marker(cls: type, of: Any, marker: Marker) -> Any:
    """A copy of a dataclass, of a subclass that has a marker, too."""
    return cls(**{each.name: getattr(of, each.name) for each in fields(of)}, marker=marker)


@dataclass(frozen=True)
class ClockedRing(Ring):
    """A ring that marks how long a stage is waited for; by consumers, only where they say which row it is."""

    marker: Any = None
    first_row: Any = None  # of the tile
    row: Any = None

    @cute.jit
    def producer_acquire(self, state):
        """As :class:`Ring`."""
        self.marker.stage(state.count, ASKED)
        Ring.producer_acquire(self, state)
        self.marker.stage(state.count, GOT)

    @cute.jit
    def consumer_wait(self, state, ready=None):
        """As :class:`Ring`."""
        if const_expr(self.row is not None):
            self.marker.stage(self.row, ASKED)
        Ring.consumer_wait(self, state, ready)
        if const_expr(self.row is not None):
            self.marker.stage(self.row, GOT)


@dataclass(frozen=True)
class ClockedQueue(WorkQueue):
    """A work queue that marks how long a tile is waited for."""

    marker: Marker

    @cute.jit
    def next_tile(self, tile, slot):
        """As :class:`WorkQueue`."""
        number = slot.count
        self.marker.tile(number, LEFT)
        following, slot = WorkQueue.next_tile(self, tile, slot)
        self.marker.tile(number, FOUND)
        return following, slot


@dataclass(frozen=True)
class ClockedPromotion:
    """A promotion that marks when it begins: the WGMMAs have ended; and when it ends."""

    promote: Any
    marker: Marker
    row: Int32
    n_fragments: int

    @cute.jit
    def __call__(self, acc, partial, scales, m: int, n: int):
        place = 2 * (m * self.n_fragments + n)
        self.marker.stage(self.row, place + MULTIPLIED)
        self.promote(acc, partial, scales, m, n)
        self.marker.stage(self.row, place + PROMOTED)


@dataclass(frozen=True)
class ClockedMainloop(SerialMainloop):
    """The library's mainloop with marks. ``count`` of the state that is given and returned counts tiles."""

    @cute.jit
    def __call__(self, inputs, state, tile, has_rows, accs):
        """As :class:`SerialMainloop`."""
        number, ring = state.count, inputs.ring
        ring.marker.tile(number, BEGUN)
        first_row = number * (tile.k_count + self.skipped_stages(tile.k_count))
        inputs = replace(inputs, ring=replace(ring, first_row=first_row))
        done = SerialMainloop.__call__(self, inputs, state, tile, has_rows, accs)
        ring.marker.tile(number, SUMMED)
        return pipeline.PipelineState(self.stages, number + 1, done.index, done.phase)

    @cute.jit
    def k_block(self, inputs, sums, state, following, ready, k, place):
        """As :class:`SerialMainloop`."""
        ring, row = inputs.ring, inputs.ring.first_row + k
        promote = ClockedPromotion(sums.promote, ring.marker, row, self.n_fragments)
        inputs = replace(inputs, ring=replace(ring, row=row))
        sums = replace(sums, promote=promote)
        return SerialMainloop.k_block(self, inputs, sums, state, following, ready, k, place)


@dataclass(frozen=True)
class WithMarks(Identity):
    """Sums are stored as they are; a call takes a tensor for marks."""

    tensors: ClassVar[int] = 1

    def operands(self, marks):
        return (marks,)


class ClockedGemm(Fp8Gemm1D2D):
    """The library's kernel with marks; ``value`` is :class:`WithMarks`."""

    def __init__(self, config: KernelConfig, scheduler: type, store: Any, **parts: Any):
        super().__init__(config, scheduler, store, **parts)
        plain = self.mainloop
        if type(plain) is not SerialMainloop:
            raise ValueError(f"{config.name}: want a configuration with one partial accumulator")
        self.mainloop = ClockedMainloop(plain.m_fragments, plain.n_fragments, plain.stages, plain.group)

    @cute.jit
    def load(self, operands, maps, smem):
        """As :class:`Fp8Gemm1D2D`."""
        marker = make_marker(operands, TMA, cute.arch.lane_idx())
        Fp8Gemm1D2D.load(self, operands, maps, with_marks(smem, marker))

    @cute.jit
    def mma(self, operands, smem, tidx):
        """As :class:`Fp8Gemm1D2D`."""
        role = cute.arch.make_warp_uniform(tidx // WARPGROUP)
        marker = make_marker(operands, role, tidx % WARPGROUP)
        Fp8Gemm1D2D.mma(self, operands, with_marks(smem, marker), tidx)


def make_marker(operands, role, thread):
    """That of a role, whose thread 0 writes, if it is of the first CTA."""
    x, y, z = cute.arch.block_idx()
    return Marker(operands.value[0][None, role, None, None], thread + x + y + z == 0)


def with_marks(smem, marker: Marker):
    """What roles share, but for a ring and a queue of one role, which it marks."""
    ring = with_marker(ClockedRing, smem.ring, marker)
    return replace(smem, ring=ring, tiles=with_marker(ClockedQueue, smem.tiles, marker))


def clocked(config: KernelConfig) -> Program:
    """The program of a configuration, with marks: a call's one further tensor."""
    strides = tuple(math.prod(SHAPE[i + 1 :]) for i in range(len(SHAPE)))
    marks = make_fake_tensor(Int32, SHAPE, strides, assumed_align=16)
    return build(config, kernel=ClockedGemm, value=WithMarks(), tensors=(marks,))
