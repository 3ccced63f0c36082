"""A ring of stages: the next k-blocks come while this one is multiplied.

    python examples/ladder/07_ring.py

Shared memory now has four *stages*, each with room for a k-block of A and of B, and an mbarrier of its own.
Before the loop, warp 0 asks TMA for the first four k-blocks. From then on, whenever all warps have read a
stage, it asks for the k-block that comes four later into the same stage. TMA is thus three k-blocks ahead,
and its latency is spread over the time of three.

K-block k is in stage `k % 4`, and it is the `k // 4`-th one there: the barrier's phase flips once a round,
so the wait is for phase `k // 4 % 2`.

| k-block | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|
| stage | 0 | 1 | 2 | 3 | 0 | 1 | 2 | 3 | 0 |
| phase | 0 | 0 | 0 | 0 | 1 | 1 | 1 | 1 | 0 |

Why is one bit enough? A barrier can be at most one round ahead of who waits for it, as the stage is filled
again only after all warps have come past this wait. With an older round still to be read, the bit would say
the wrong thing.

The stage is given back before the promotion, so that TMA starts as early as it can. M must be a multiple of
64, N of 128.

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| 06_promotion | 4096x4096x7168 | 367.6 | 654 TFLOP/s | 33.1% | 1.4e-06 | 143 |
| 07_ring | 4096x4096x7168 | 267.9 | 898 TFLOP/s | 45.4% | 1.4e-06 | 143 |

## What follows

From 367.6 to 267.9 us: the ring gains more than any other single rung. All of the loss by promotion is back,
and a little more than that, though a CTA takes four times the shared memory and only two share an SM, not
three. Loads that are under way early do more than a third CTA did.

What limits it now? In each k-block there is still a `sync_threads`: all four warps stop, for the sake of one
that asks TMA. And warp 0 asks between its WGMMAs and its promotion, so the other three wait for it at the
next barrier. The next rung gives that work to a warp that does nothing else. But there is another suspect.
The CTAs load 2.8 GB, as in rung 5, and at about the same rate, 10.5 TB/s. If L2 cannot give more, it does not
matter who waits for whom.

## Break it

Replace the wait's phase, `k // STAGES % 2`, by 0. Round 0 waits as it should. In round 1 there are two
cases. If the bytes have not landed, phase 0 counts as over, since round 0 was: nothing is waited for, and
WGMMA reads the stage while TMA writes it. If they have landed, the barrier is one phase further, and the
wait is for round 2, which is loaded only after this wait is over: the kernel hangs. Most errors with
barriers are one of these two.
"""

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float8E4M3FN, Float32, Int64
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, warpgroup

from cute_gemm.testing.rungs import climb, gemm

BLOCK_M, BLOCK_N, BLOCK_K, STAGES = 64, 128, 128, 4
THREADS = 128  # one warpgroup
STAGE_BYTES = (BLOCK_M + BLOCK_N) * BLOCK_K


def swizzled(rows):
    """The layout (rows, BLOCK_K, STAGES) in shared memory, in the order that TMA and WGMMA know."""
    atom = warpgroup.make_smem_layout_atom(warpgroup.SmemLayoutAtomKind.K_SW128, Float8E4M3FN)
    return cute.tile_to_shape(atom, (rows, BLOCK_K, STAGES), (0, 1, 2))


def tma_copy(op, matrix, rows):
    """TMA's copy of ``rows`` into a stage, and the matrix by TMA's coordinates."""
    stage = cute.slice_(swizzled(rows), (None, None, 0))
    return cpasync.make_tiled_tma_atom(op, matrix, stage, (rows, BLOCK_K))


def along_k(atom, matrix, tile, rows, shared):
    """TMA's copy, where it writes, (TMA, stages), and where it reads a tile's k-blocks, (TMA, restK)."""
    blocks = cute.local_tile(matrix, (rows, BLOCK_K), (tile, None))  # (rows, bK, restK)
    both = cute.group_modes(shared, 0, 2), cute.group_modes(blocks, 0, 2)
    return atom, *cpasync.tma_partition(atom, 0, cute.make_layout(1), *both)


def wgmma():
    """The WGMMA of 64 x BLOCK_N x 32, both operands in shared memory."""
    k, shared = OperandMajorMode.K, warpgroup.OperandSource.SMEM
    op = warpgroup.MmaF8Op(Float8E4M3FN, Float8E4M3FN, Float32, (64, BLOCK_N, 32), shared, k, k)
    return cute.make_tiled_mma(cute.make_mma_atom(op), (1, 1, 1))


@cute.jit
def fill(loads, k, stage, full):
    """One warp's work: has TMA bring k-block ``k`` into ``stage``, and says so at the stage's barrier."""
    with cute.arch.elect_one():
        cute.arch.mbarrier_arrive_and_expect_tx(full + stage, STAGE_BYTES)
    for atom, shared, blocks in loads:
        cute.copy(atom, blocks[None, k], shared[None, stage], tma_bar_ptr=full + stage)


@cute.jit
def multiply(partial, tCrA, tCrB):
    """Issues a k-block's four WGMMAs into ``partial``: the first overwrites it, the others add to it."""
    warpgroup.fence()
    for k in cutlass.range_constexpr(BLOCK_K // 32):
        mma = wgmma()  # a fresh one each time: ACCUMULATE is a field of it
        mma.set(warpgroup.Field.ACCUMULATE, k != 0)
        cute.gemm(mma, partial, tCrA[None, None, k], tCrB[None, None, k], partial)
    warpgroup.commit_group()


class Gemm:
    """D = A @ B.T of e4m3 with scales, a tile of D a CTA."""

    @cute.struct
    class Storage:
        """Shared memory."""

        full: cute.struct.MemRange[Int64, STAGES]
        sA: cute.struct.Align[cute.struct.MemRange[Float8E4M3FN, STAGES * BLOCK_M * BLOCK_K], 1024]
        sB: cute.struct.Align[cute.struct.MemRange[Float8E4M3FN, STAGES * BLOCK_N * BLOCK_K], 1024]

    @cute.jit
    def __call__(self, mA, mSFA, mB, mSFB, mD, stream):
        """Makes the TMA atoms, and launches a CTA a tile."""
        load = cpasync.CopyBulkTensorTileG2SOp()
        a, b = tma_copy(load, mA, BLOCK_M), tma_copy(load, mB, BLOCK_N)
        grid = (cute.ceil_div(mD.shape[0], BLOCK_M), cute.ceil_div(mD.shape[1], BLOCK_N), 1)
        self.kernel(a, mSFA, b, mSFB, mD).launch(grid=grid, block=(THREADS, 1, 1), stream=stream)

    @cute.kernel
    def kernel(self, a, mSFA, b, mSFB, mD):
        """One tile of D."""
        thread, (tile_m, tile_n, _) = cute.arch.thread_idx()[0], cute.arch.block_idx()
        warp = cute.arch.make_warp_uniform(thread // 32)
        storage = cutlass.memory.SmemAllocator().allocate(self.Storage)
        full = storage.full.data_ptr()
        sA = storage.sA.get_tensor(swizzled(BLOCK_M).outer, swizzle=swizzled(BLOCK_M).inner)
        sB = storage.sB.get_tensor(swizzled(BLOCK_N).outer, swizzle=swizzled(BLOCK_N).inner)
        if warp == 0:
            with cute.arch.elect_one():
                for stage in cutlass.range_constexpr(STAGES):
                    cute.arch.mbarrier_init(full + stage, 1)
        cute.arch.mbarrier_init_fence()
        cute.arch.sync_threads()

        loads = along_k(*a, tile_m, BLOCK_M, sA), along_k(*b, tile_n, BLOCK_N, sB)
        mma = wgmma()
        thr_mma = mma.get_slice(thread)
        tCrA = mma.make_fragment_A(thr_mma.partition_A(sA))  # (MMA, 1, 4, stages)
        tCrB = mma.make_fragment_B(thr_mma.partition_B(sB))
        sums = mma.partition_shape_C((64, BLOCK_N))
        acc, partial = (cute.make_rmem_tensor(sums, Float32) for _ in range(2))
        acc.fill(0.0)
        # The row of registers 0 and 1; that of 2 and 3 is eight below.
        row = tile_m * BLOCK_M + warp * 16 + thread % 32 // 4
        k_blocks = mSFB.shape[1]
        if warp == 0:
            for k in cutlass.range(cutlass.min(STAGES, k_blocks), unroll=1):
                fill(loads, k, k % STAGES, full)
        for k in cutlass.range(k_blocks, unroll=1):
            stage = k % STAGES
            cute.arch.mbarrier_wait(full + stage, k // STAGES % 2)
            multiply(partial, tCrA[None, None, None, stage], tCrB[None, None, None, stage])
            scale = [mSFA[row + 8 * half, k] * mSFB[tile_n, k] for half in range(2)]
            warpgroup.wait_group(0)
            cute.arch.sync_threads()
            if warp == 0 and k + STAGES < k_blocks:
                fill(loads, k + STAGES, stage, full)
            for i in cutlass.range_constexpr(cute.size(acc)):  # the promotion
                acc[i] += partial[i] * scale[i // 2 % 2]

        gD = cute.local_tile(mD, (BLOCK_M, BLOCK_N), (tile_m, tile_n))
        tCgD = thr_mma.partition_C(gD)
        for i in cutlass.range_constexpr(cute.size(acc)):
            tCgD[i] = acc[i].to(BFloat16)


RUNG = gemm(__file__, Gemm())

if __name__ == "__main__":
    climb(RUNG)
