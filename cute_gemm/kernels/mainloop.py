"""The math warpgroups' loop over k-blocks: wait, multiply, release, promote."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32, const_expr, pipeline
from cutlass.cute.nvgpu import warpgroup

from .hopper import fp8_mma
from .scaling import GROUP


@dataclass(frozen=True)
class SerialMainloop:
    """One temporary accumulator: while this warpgroup promotes, the other one, if any, multiplies.

    Where the ring's stages are whole groups of scales, so are the turns of the loop: a group begins where a
    group of stages does, so which stage and which scale comes next is known when compiling, but for the place
    of the group. 128x192 tiles then take 137 instructions a k-block instead of 156. A tile's k-blocks are
    made up to whole groups: see :meth:`passed_over`.
    A warpgroup none of whose rows are stored (``has_rows`` is false) only gives the stages back.
    """

    block_n: int
    waves: int
    stages: int

    @property
    def in_groups(self) -> bool:
        """Whether the ring's stages are whole groups of scales."""
        return self.stages % GROUP == 0

    @cute.jit
    def passed_over(self, k_count: Int32) -> Int32:
        """Stages that hold nothing, behind a tile's ``k_count`` k-blocks, so that the next begins a group."""
        rest = Int32(0)
        if const_expr(self.in_groups):
            rest = (GROUP - k_count % GROUP) % GROUP
        return rest

    @cute.jit
    def __call__(self, ring, state, tile, has_rows, tCrA, tCrB, scales, promote, accs):
        """Sums the k-blocks of ``tile`` into ``accs``, one for 64 rows; returns the advanced ring state."""
        temp = cute.make_rmem_tensor_like(accs[0])
        operands = ring, tile, temp, tCrA, tCrB, scales, promote, promote.column_split(tile.n_tile), accs
        for acc in accs:
            acc.fill(0.0)
        # Loops, some of them empty: with a branch around them the compiler copied registers in the first.
        k_count = tile.k_count
        if not has_rows:
            k_count = Int32(0)
        ready = peek(ring, state)
        scales.begin(tile)
        k_first = Int32(0)
        if const_expr(self.in_groups):
            k_first = k_count // GROUP * GROUP
            for k in cutlass.range(0, k_first, GROUP, unroll=1):
                first = state
                state = self.group_after(first)
                for i in cutlass.range_constexpr(GROUP):
                    following = self.within(first, i + 1) if i + 1 < GROUP else state
                    ready, _ = self.k_block(operands, self.within(first, i), following, ready, k + i, i)
        # Where all k-blocks are here, turns of as many as a group of scales gain 3 to 5 % (2026-11-23).
        for k in cutlass.range(k_first, k_count, unroll=1 if self.in_groups else GROUP):
            ready, state = self.k_block(operands, state, None, ready, k, k % GROUP)
        for _ in cutlass.range(tile.k_count - k_count + self.passed_over(tile.k_count), unroll=1):
            ring.consumer_wait(state)
            ring.consumer_release(state)
            state.advance()
        return state

    def within(self, first, i: int):
        """The state of the ring ``i`` stages into the group that begins at ``first``."""
        index = Int32(i) if self.stages == GROUP else first.index + i
        return pipeline.PipelineState(self.stages, Int32(0), index, first.phase)

    @cute.jit
    def group_after(self, first):
        """The state of the ring at the group of stages after the one that begins at ``first``."""
        index, phase = Int32(0), first.phase ^ 1
        if const_expr(self.stages > GROUP):
            if first.index + GROUP < self.stages:
                index, phase = first.index + GROUP, first.phase
        return pipeline.PipelineState(self.stages, Int32(0), index, phase)

    @cute.jit
    def k_block(self, operands, state, following, ready, k, place):
        """Multiplies and promotes k-block ``k``, which is at ``place`` in its group of scales.

        Returns whether the next one is there, and its state, ``following`` if that is not None.
        """
        ring, tile, temp, tCrA, tCrB, scales, promote, split, accs = operands
        ring.consumer_wait(state, ready)
        staged = scales.read(state.index)
        for wave in cutlass.range_constexpr(self.waves):
            multiply(self.block_n, temp, tCrA[None, None, None, wave, None], tCrB, state.index)
            # In the shadow of the WGMMAs: nothing that waits stands between a full stage and their issue.
            if const_expr(wave == 0):
                row_scales = scales.hand_out(staged, tile, k, place)
            warpgroup.wait_group(0)
            if const_expr(wave == self.waves - 1):
                ring.consumer_release(state)
                if const_expr(following is None):
                    following = state.clone()
                    following.advance()
                ready = peek(ring, following)
            promote(accs[wave], temp, row_scales[wave], split)
        return ready, following


@dataclass(frozen=True)
class OverlappedMainloop:
    """Two temporary accumulators: the next k-block is multiplied while this warpgroup promotes the last.

    For dense tiles with one math warpgroup, which no other keeps the tensor cores busy for. It multiplies
    whether it has rows or not: only a CTA whose cluster has another one with rows can be without.
    """

    block_n: int

    def passed_over(self, k_count: Int32) -> Int32:
        """None: a tile begins at any stage."""
        return Int32(0)

    @cute.jit
    def __call__(self, ring, state, tile, has_rows, tCrA, tCrB, scales, promote, accs):
        """As :class:`SerialMainloop`, for one 64-row fragment."""
        (acc,), tCrA = accs, tCrA[None, None, None, 0, None]
        split = promote.column_split(tile.n_tile)
        operands = ring, tile, tCrA, tCrB, scales, promote, split, acc
        acc.fill(0.0)
        even, odd = cute.make_rmem_tensor_like(acc), cute.make_rmem_tensor_like(acc)
        scales.begin(tile)
        ring.consumer_wait(state)
        staged = scales.read(state.index)
        multiply(self.block_n, even, tCrA, tCrB, state.index)
        held = scales.hand_out(staged, tile, Int32(0), 0)[0]
        last = tile.k_count - 1
        for pair in cutlass.range(last // 2, unroll=1):
            state, held = self.step(operands, state, 2 * pair + 1, odd, even, held)
            state, held = self.step(operands, state, 2 * pair + 2, even, odd, held)
        if last % 2 == 1:
            state, held = self.step(operands, state, last, odd, even, held)
            warpgroup.wait_group(0)
            ring.consumer_release(state)
            promote(acc, odd, held, split)
        else:
            warpgroup.wait_group(0)
            ring.consumer_release(state)
            promote(acc, even, held, split)
        state.advance()
        return state

    @cute.jit
    def step(self, operands, state, k, issued, done, held):
        """Issues k-block ``k`` into ``issued``; retires the one before, in ``done``, and promotes it."""
        ring, tile, tCrA, tCrB, scales, promote, split, acc = operands
        previous = state.clone()
        state.advance()
        ring.consumer_wait(state)
        staged = scales.read(state.index)
        multiply(self.block_n, issued, tCrA, tCrB, state.index)
        following = scales.hand_out(staged, tile, k, k % GROUP)[0]
        warpgroup.wait_group(1)
        ring.consumer_release(previous)
        promote(acc, done, held, split)
        return state, following


def peek(ring, state):
    """Whether the stage has been filled, asked ahead of the wait for it.

    Not by ``try_wait``, which suspends the warp: after the last k-block of a CTA nothing more comes, and that
    cost 6 us a launch (2026-11-23).
    """
    return ring.sync_object_full.test_wait(state.index, state.phase)


@cute.jit
def multiply(block_n: int, temp, tCrA, tCrB, stage: Int32):
    """Issues and commits the WGMMAs of a 64 x BLOCK_N x 128 block into ``temp``, whose old value is lost."""
    warpgroup.fence()
    for k in cutlass.range_constexpr(cute.size(tCrA, mode=[2])):
        # A fresh atom each time: one that is set in a loop's body and used after it is rejected.
        mma = fp8_mma(block_n)
        mma.set(warpgroup.Field.ACCUMULATE, k != 0)
        cute.gemm(mma, temp, tCrA[None, None, k, stage], tCrB[None, None, k, stage], temp)
    warpgroup.commit_group()
