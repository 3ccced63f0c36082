"""The math warpgroups' loop over k-blocks: wait, multiply, release, promote."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32, const_expr
from cutlass.cute.nvgpu import warpgroup

from .hopper import fp8_mma

_UNROLL = 4
"""k-blocks in a turn of the serial loop: as many as a group of scales. Gains 3 to 5 % over 1 (2026-11-23)."""


@dataclass(frozen=True)
class SerialMainloop:
    """One temporary accumulator: while this warpgroup promotes, the other one multiplies.

    A warpgroup none of whose rows are stored (``has_rows`` is false) only gives the stages back.
    """

    block_n: int
    waves: int

    @cute.jit
    def __call__(self, ring, state, tile, has_rows, tCrA, tCrB, scales, promote, accs):
        """Sums the k-blocks of ``tile`` into ``accs``, one for 64 rows; returns the advanced ring state."""
        temp = cute.make_rmem_tensor_like(accs[0])
        split = promote.column_split(tile.n_tile)
        for acc in accs:
            acc.fill(0.0)
        # Two loops, one of them empty: with a branch around them the compiler copied registers in the first.
        k_count = tile.k_count
        if not has_rows:
            k_count = Int32(0)
        ready = peek(ring, state)
        for k in cutlass.range(k_count, unroll=_UNROLL):
            ring.consumer_wait(state, ready)
            for wave in cutlass.range_constexpr(self.waves):
                multiply(self.block_n, temp, tCrA[None, None, None, wave, None], tCrB, state.index)
                # In the shadow of the WGMMAs: nothing else stands between a full stage and their issue.
                if const_expr(wave == 0):
                    row_scales = scales.hand_out(tile, k)
                warpgroup.wait_group(0)
                if const_expr(wave == self.waves - 1):
                    ring.consumer_release(state)
                    state.advance()
                    ready = peek(ring, state)
                promote(accs[wave], temp, row_scales[wave], split)
        for _ in cutlass.range(tile.k_count - k_count, unroll=1):
            ring.consumer_wait(state)
            ring.consumer_release(state)
            state.advance()
        return state


@dataclass(frozen=True)
class OverlappedMainloop:
    """Two temporary accumulators: the next k-block is multiplied while this warpgroup promotes the last.

    For tiles with one math warpgroup, which no other keeps the tensor cores busy for. It multiplies whether
    it has rows or not: by the rules of an index, only a CTA whose cluster has another one with rows can be
    without.
    """

    block_n: int

    @cute.jit
    def __call__(self, ring, state, tile, has_rows, tCrA, tCrB, scales, promote, accs):
        """As :class:`SerialMainloop`, for one 64-row fragment."""
        (acc,), tCrA = accs, tCrA[None, None, None, 0, None]
        split = promote.column_split(tile.n_tile)
        operands = ring, tile, tCrA, tCrB, scales, promote, split, acc
        acc.fill(0.0)
        even, odd = cute.make_rmem_tensor_like(acc), cute.make_rmem_tensor_like(acc)
        ring.consumer_wait(state)
        multiply(self.block_n, even, tCrA, tCrB, state.index)
        held = scales.hand_out(tile, Int32(0))[0]
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
        multiply(self.block_n, issued, tCrA, tCrB, state.index)
        following = scales.hand_out(tile, k)[0]
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
