"""The math warpgroups' loop over k-blocks: wait, multiply, release, promote.

A mainloop is given accumulators of all fragments of a warpgroup: those along N of the first 64 rows, then
those of the next. It asks a feed (scaling/base.py) for scales, and knows neither types nor granularity.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import cutlass
import cutlass.cute as cute
from cutlass import Int32, const_expr, pipeline
from cutlass.cute.nvgpu import warpgroup

from ..plan.config import KernelConfig
from ..plan.recipe import FP8_1D1D
from .sm90.mma import Wgmma
from .sm90.pipelines import Ring
from .sm90.smem import zero_columns
from .sm90.threads import WARPGROUP, NamedBarrier


@dataclass(frozen=True)
class Slices:
    """What a warpgroup multiplies, as memory."""

    sA: cute.Tensor  # (rows of the warpgroup, bK, stages)
    sB: cute.Tensor  # (bN, bK, stages)
    warpgroup_idx: Int32


@dataclass(frozen=True)
class Inputs:
    """What a mainloop works with, the same for all tiles of a warpgroup."""

    mma: Wgmma
    ring: Ring
    tCrA: cute.Tensor  # (MMA, 1, MMA_K, m-fragments, stages)
    tCrB: cute.Tensor  # (MMA, 1, MMA_K, n-fragments, stages)
    scales: Any  # a feed
    slices: Slices | None = None


@dataclass(frozen=True)
class TileSums:
    """What a mainloop adds to, for one tile."""

    tile: Any
    partials: tuple[cute.Tensor, ...]  # partial accumulators, one or two, each of a fragment
    promote: Any
    accs: list[cute.Tensor]


def make_mainloop(config: KernelConfig, group: int) -> "SerialMainloop | OverlappedMainloop":
    """The mainloop of a configuration; ``group`` is that of its scaling."""
    if config.partial_accumulators == 2:
        return OverlappedMainloop(group)
    kind = RaggedMainloop if config.layout.has_result_per_group else SerialMainloop
    return kind(config.m_fragments, config.n_fragments, config.stages, group)


@dataclass(frozen=True)
class SerialMainloop:
    """One partial accumulator: while this warpgroup promotes, the other one, if any, multiplies.

    Where the ring's stages are whole groups of scales, the loop goes by groups: a group begins where a group
    of stages does, so which stage and which scale comes next is known when compiling, but for the number of
    the group. That takes fewer instructions (docs/performance.md, 38). A tile's k-blocks are made up to whole
    groups: see :meth:`skipped_stages`.
    A warpgroup none of whose rows are stored (``has_rows`` is false) only gives the stages back.
    """

    m_fragments: int
    n_fragments: int
    stages: int
    group: int

    @property
    def in_groups(self) -> bool:
        """Whether the ring's stages are whole groups of scales."""
        return self.stages % self.group == 0

    @cute.jit
    def skipped_stages(self, k_count: Int32) -> Int32:
        """Stages that hold nothing, behind a tile's ``k_count`` k-blocks, so that the next begins a group."""
        rest = Int32(0)
        if const_expr(self.in_groups):
            rest = (self.group - k_count % self.group) % self.group
        return rest

    @cute.jit
    def __call__(self, inputs: Inputs, state, tile, has_rows, accs):
        """Sums the k-blocks of ``tile`` into ``accs``; returns the advanced state of the ring."""
        ring, scales = inputs.ring, inputs.scales
        partial = cute.make_rmem_tensor_like(accs[0])
        sums = TileSums(tile, (partial,), scales.promotion(tile), accs)
        for acc in accs:
            acc.fill(0.0)
        # Loops, some of them empty: a branch around them makes the compiler copy registers in the first
        # (docs/performance.md, 21).
        k_count = tile.k_count
        if not has_rows:
            k_count = Int32(0)
        ready = ring.is_full(state)
        scales.begin(tile)
        k_first = Int32(0)
        if const_expr(self.in_groups):
            k_first = self.whole_blocks(tile, k_count) // self.group * self.group
            for k in cutlass.range(0, k_first, self.group, unroll=1):
                first = state
                state = self.group_after(first)
                for i in cutlass.range_constexpr(self.group):
                    following = self.within(first, i + 1) if i + 1 < self.group else state
                    ready, _ = self.k_block(inputs, sums, self.within(first, i), following, ready, k + i, i)
        # Where all k-blocks are here, the loop is unrolled by a group of scales (docs/performance.md, 5).
        for k in cutlass.range(k_first, k_count, unroll=1 if self.in_groups else self.group):
            ready, state = self.k_block(inputs, sums, state, None, ready, k, k % self.group)
        for _ in cutlass.range(tile.k_count - k_count + self.skipped_stages(tile.k_count), unroll=1):
            ring.consumer_wait(state)
            ring.consumer_release(state)
            state.advance()
        return state

    def within(self, first, i: int):
        """The state of the ring ``i`` stages into the group that begins at ``first``."""
        index = Int32(i) if self.stages == self.group else first.index + i
        return pipeline.PipelineState(self.stages, Int32(0), index, first.phase)

    @cute.jit
    def group_after(self, first):
        """The state of the ring at the group of stages after the one that begins at ``first``."""
        index, phase = Int32(0), first.phase ^ 1
        if const_expr(self.stages > self.group):
            if first.index + self.group < self.stages:
                index, phase = first.index + self.group, first.phase
        return pipeline.PipelineState(self.stages, Int32(0), index, phase)

    def whole_blocks(self, tile, k_count: Int32) -> Int32:
        """Of the first ``k_count`` k-blocks of ``tile``, those that fill a stage: all."""
        return k_count

    def trim(self, inputs: Inputs, tile, state, k):
        """Before k-block ``k``, maybe no whole one, is multiplied: nothing, as all of a stage counts."""

    @cute.jit
    def k_block(self, inputs: Inputs, sums: TileSums, state, following, ready, k, place):
        """Multiplies and promotes k-block ``k``, which is at ``place`` in its group of scales.

        Returns whether the next one is there, and its state, ``following`` if that is not None.
        """
        ring, (partial,) = inputs.ring, sums.partials
        last = self.m_fragments * self.n_fragments - 1
        ring.consumer_wait(state, ready)
        if const_expr(following is None):
            self.trim(inputs, sums.tile, state, k)
        staged = inputs.scales.read(state)
        for fragment in cutlass.range_constexpr(last + 1):
            m, n = fragment // self.n_fragments, fragment % self.n_fragments
            multiply(partial, inputs, m, n, state.index)
            # Behind the issue of the WGMMAs: nothing that waits may stand between a full stage and them.
            if const_expr(fragment == 0):
                k_scales = inputs.scales.hand_out(staged, sums.tile, k, place)
            warpgroup.wait_group(0)
            if const_expr(fragment == last):
                ring.consumer_release(state)
                if const_expr(following is None):
                    following = state.clone()
                    following.advance()
                ready = ring.is_full(following)
            sums.promote(sums.accs[fragment], partial, k_scales, m, n)
        return ready, following


@dataclass(frozen=True)
class RaggedMainloop(SerialMainloop):
    """The same where a tile's last k-block may be shorter than a stage (:class:`base.RaggedWorkTile`).

    What follows it in the stage are other groups' elements, of A and of B; any of them may be NaN, so both
    become zero. Each warpgroup does that to its rows of A and to all of B, and waits for its own threads
    alone: another one that writes the same zeros while this one multiplies does no harm.
    """

    depth: ClassVar[int] = FP8_1D1D.scale_k
    """Elements of a whole k-block."""

    @cute.jit
    def __call__(self, inputs: Inputs, state, tile, has_rows, accs):
        """As :class:`SerialMainloop`."""
        tile = replace(tile, k_last=cute.arch.make_warp_uniform(tile.k_last))
        return SerialMainloop.__call__(self, inputs, state, tile, has_rows, accs)

    @cute.jit
    def whole_blocks(self, tile, k_count: Int32) -> Int32:
        """Of the first ``k_count`` k-blocks of ``tile``, those that fill a stage."""
        whole = k_count
        if k_count > 0 and tile.k_last < self.depth:
            whole = k_count - 1
        return whole

    @cute.jit
    def trim(self, inputs: Inputs, tile, state, k):
        """Zeroes what of k-block ``k`` does not count, if it is not a whole one."""
        own = inputs.slices
        if k == tile.k_count - 1 and tile.k_last < self.depth:
            thread = cute.arch.thread_idx()[0] % WARPGROUP
            for slices in (own.sA, own.sB):
                zero_columns(slices, tile.k_last, state.index, thread)
            # WGMMA, and TMA when a CTA fills the stage anew, come after what was written here: the stage is
            # given back when the WGMMAs that read these zeros have ended.
            cute.arch.fence_proxy("async.shared", space="cta")
            barrier = NamedBarrier.STORE + own.warpgroup_idx
            cute.arch.barrier(barrier_id=barrier, number_of_threads=WARPGROUP)


@dataclass(frozen=True)
class OverlappedMainloop:
    """Two partial accumulators: the next k-block is multiplied while this warpgroup promotes the last.

    For one fragment, and tiles with one math warpgroup, beside which no other keeps the tensor cores busy
    (docs/performance.md, 14). It multiplies whether it has rows or not: a CTA is without rows only where
    another one of its cluster has some.
    """

    group: int

    def skipped_stages(self, k_count: Int32) -> Int32:
        """None: a tile begins at any stage."""
        return Int32(0)

    @cute.jit
    def __call__(self, inputs: Inputs, state, tile, has_rows, accs):
        """As :class:`SerialMainloop`, for one fragment."""
        (acc,), ring, scales = accs, inputs.ring, inputs.scales
        even, odd = cute.make_rmem_tensor_like(acc), cute.make_rmem_tensor_like(acc)
        sums = TileSums(tile, (even, odd), scales.promotion(tile), accs)
        acc.fill(0.0)
        scales.begin(tile)
        ring.consumer_wait(state)
        staged = scales.read(state)
        multiply(even, inputs, 0, 0, state.index)
        held = scales.hand_out(staged, tile, Int32(0), 0)
        last = tile.k_count - 1
        for pair in cutlass.range(last // 2, unroll=1):
            state, held = self.step(inputs, sums, state, 2 * pair + 1, 1, held)
            state, held = self.step(inputs, sums, state, 2 * pair + 2, 0, held)
        if last % 2 == 1:
            state, held = self.step(inputs, sums, state, last, 1, held)
            warpgroup.wait_group(0)
            ring.consumer_release(state)
            sums.promote(acc, odd, held, 0, 0)
        else:
            warpgroup.wait_group(0)
            ring.consumer_release(state)
            sums.promote(acc, even, held, 0, 0)
        state.advance()
        return state

    @cute.jit
    def step(self, inputs: Inputs, sums: TileSums, state, k, parity: int, held):
        """Issues k-block ``k``, even or odd as ``parity`` is; retires the one before, and promotes it.

        ``held`` are the scales of that one; returned are the state of the ring and the scales of ``k``.
        """
        ring, scales = inputs.ring, inputs.scales
        issued, done = sums.partials[parity], sums.partials[1 - parity]
        previous = state.clone()
        state.advance()
        ring.consumer_wait(state)
        staged = scales.read(state)
        multiply(issued, inputs, 0, 0, state.index)
        following = scales.hand_out(staged, sums.tile, k, k % self.group)
        warpgroup.wait_group(1)
        ring.consumer_release(previous)
        sums.promote(sums.accs[0], done, held, 0, 0)
        return state, following


@cute.jit
def multiply(partial, inputs: Inputs, m: int, n: int, stage: Int32, adds: bool = False):
    """Issues and commits the WGMMAs of a fragment and a k-block into ``partial``.

    Its old value is lost, but where a mainloop of one's own says that it ``adds`` to that.
    """
    tCrA = inputs.tCrA[None, None, None, m, None]  # (MMA, 1, MMA_K, stages)
    tCrB = inputs.tCrB[None, None, None, n, None]
    warpgroup.fence()
    for k in cutlass.range_constexpr(cute.size(tCrA, mode=[2])):
        tiled = inputs.mma.tiled()
        tiled.set(warpgroup.Field.ACCUMULATE, adds or k != 0)
        cute.gemm(tiled, partial, tCrA[None, None, k, stage], tCrB[None, None, k, stage], partial)
    warpgroup.commit_group()
