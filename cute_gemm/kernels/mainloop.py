"""The math warpgroups' loop over k-blocks: wait, multiply, release, promote."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.cute.nvgpu import warpgroup

from .hopper import fp8_mma


@dataclass(frozen=True)
class SerialMainloop:
    """One temporary accumulator: while this warpgroup promotes, the other one multiplies."""

    block_n: int
    waves: int
    unroll: int = 4

    @cute.jit
    def __call__(self, ring, state, tile, tCrA, tCrB, scales, promote, split, accs):
        """Sums the k-blocks of ``tile`` into ``accs``, one fragment per 64 rows; returns the advanced ring state."""
        temp = cute.make_rmem_tensor_like(accs[0])
        for wave in cutlass.range_constexpr(self.waves):
            accs[wave].fill(0.0)
        ready = ring.sync_object_full.test_wait(state.index, state.phase)
        for k in cutlass.range(tile.k_count, unroll=self.unroll):
            ring.consumer_wait(state, ready)
            for wave in cutlass.range_constexpr(self.waves):
                multiply(self.block_n, temp, tCrA[None, None, None, wave, state.index], tCrB[None, None, None, state.index])
                if cutlass.const_expr(wave == 0):
                    row_scales = scales.hand_out(tile, k)
                warpgroup.wait_group(0)
                if cutlass.const_expr(wave == self.waves - 1):
                    ring.consumer_release(state)
                    state.advance()
                    ready = ring.sync_object_full.test_wait(state.index, state.phase)
                promote(accs[wave], temp, row_scales[wave], split)
        return state


@dataclass(frozen=True)
class OverlappedMainloop:
    """Two temporary accumulators: this warpgroup's next k-block is being multiplied while it promotes the last."""

    block_n: int

    @cute.jit
    def __call__(self, ring, state, tile, tCrA, tCrB, scales, promote, split, accs):
        """As :class:`SerialMainloop`, for one 64-row fragment."""
        acc = accs[0]
        acc.fill(0.0)
        even = cute.make_rmem_tensor_like(acc)
        odd = cute.make_rmem_tensor_like(acc)
        ring.consumer_wait(state)
        multiply(self.block_n, even, tCrA[None, None, None, 0, state.index], tCrB[None, None, None, state.index])
        current = scales.hand_out(tile, Int32(0))
        for pair in cutlass.range((tile.k_count - 1) // 2, unroll=1):
            k = 2 * pair + 1
            state, current = self.step(ring, state, tile, k, tCrA, tCrB, scales, promote, split, acc, odd, even, current)
            state, current = self.step(ring, state, tile, k + 1, tCrA, tCrB, scales, promote, split, acc, even, odd, current)
        if tile.k_count % 2 == 0:
            state, current = self.step(
                ring, state, tile, tile.k_count - 1, tCrA, tCrB, scales, promote, split, acc, odd, even, current
            )
            warpgroup.wait_group(0)
            promote(acc, odd, current[0], split)
        else:
            warpgroup.wait_group(0)
            promote(acc, even, current[0], split)
        ring.consumer_release(state)
        state.advance()
        return state

    @cute.jit
    def step(self, ring, state, tile, k, tCrA, tCrB, scales, promote, split, acc, issued, done, current):
        """Issues k-block ``k`` into ``issued``, then retires and promotes the one in ``done``."""
        last = state.clone()
        state.advance()
        ring.consumer_wait(state)
        multiply(self.block_n, issued, tCrA[None, None, None, 0, state.index], tCrB[None, None, None, state.index])
        following = scales.hand_out(tile, k)
        warpgroup.wait_group(1)
        ring.consumer_release(last)
        promote(acc, done, current[0], split)
        return state, following


@cute.jit
def multiply(block_n: int, temp, tCrA_k, tCrB_k):
    """Issues the WGMMAs of one 64 x BLOCK_N x 128 block into ``temp`` and commits them."""
    warpgroup.fence()
    for k in cutlass.range_constexpr(cute.size(tCrA_k, mode=[2])):
        mma = fp8_mma(block_n)
        mma.set(warpgroup.Field.ACCUMULATE, k != 0)
        cute.gemm(mma, temp, tCrA_k[None, None, k], tCrB_k[None, None, k], temp)
    warpgroup.commit_group()
