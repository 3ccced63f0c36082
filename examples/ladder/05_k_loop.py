"""A loop over K with one stage: FP8, nothing promoted.

    python examples/ladder/05_k_loop.py

The first rung that multiplies matrices of any depth. Each CTA computes a tile of D, 64 x 128, and goes along
K in *k-blocks* of 128: TMA brings 64 x 128 of A and 128 x 128 of B, four WGMMAs of depth 32 add their
product to the accumulator, and the next k-block comes into the same shared memory. Two things are waited
for, once a k-block each:

- *The bytes have landed.* One thread arrives at the mbarrier and says how many bytes will come; TMA counts
  them down. The barrier's phase flips once a k-block, so k-block k waits for phase `k % 2`.
- *The bytes have been read.* WGMMA is asynchronous, and reads shared memory until it has retired. Each warp
  waits for that by `wait_group(0)`, and `sync_threads` says that all four have. Only then may TMA write
  there.

M must be a multiple of 64, N of 128; beyond K, TMA fills with zeros. All scales are 1.

**Fourteen bits.** The accumulator's registers are FP32, but Hopper's tensor cores do not add FP8 products in
FP32. They align all terms to the largest of them, the running sum included, and cut off what lies more than
about 13 bits below it. As a sum grows along K, more of each new term is cut off, and always towards zero.
That is why this rung runs with several K: with 128 the error is that of rounding D to bf16, and then it
grows. On a GPU it prints the errors of ten K, beside those of the library's kernel, which promotes, as the
next rung does.

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| 04_wgmma | 4096x4096x128 | 36.3 | 118 TFLOP/s | 19.9% | 1.4e-06 | 90 |
| 05_k_loop | 4096x4096x7168 | 275.7 | 872 TFLOP/s | 44.1% | 3.3e-06 | 90 |
| 05_k_loop | 4096x4096x128 | 37.0 | 116 TFLOP/s | 19.5% | 1.4e-06 | 90 |
| 05_k_loop | 4096x4096x1024 | 57.6 | 596 TFLOP/s | 30.1% | 1.6e-06 | 90 |
| 05_k_loop | 4096x4096x32768 | 1223.0 | 899 TFLOP/s | 45.4% | 1.3e-05 | 90 |

![The error of sums over K, in the tensor core and promoted](../../docs/pictures/error_over_k.svg)

## What follows

The error belongs to the length of the sum: 1.4e-06 at K = 128, 3.3e-06 at 7168, 1.3e-05 at 32768. So the sum
must be short. The next rung takes it out of the tensor core after each k-block, and goes on in FP32 on the
CUDA cores.

The time is 44.1 % of the limit, and 45.4 % with K = 32768, where a tile's beginning and end weigh next to
nothing. So it is the loop that is slow. Within a CTA nothing overlaps: WGMMA waits for TMA, which takes
longer to answer than four WGMMAs take, and then TMA waits for WGMMA. What overlaps is one CTA with another. A
CTA takes 25 KB of shared memory and 128 threads of 90 registers, so five fit on an SM, and some multiply
while others wait.

That works better than it looks: no rung before the ninth is much faster. But each CTA loads its own 24 KB for
each million of multiply-adds, many of which its neighbours load as well. Together that is 2.8 GB out of L2 in
275.7 us, about 10 TB/s. Both come up again: loads ahead of their use in rung 7, fewer bytes in rungs 9, 12
and 15.

## Break it

Delete `cute.arch.sync_threads()` at the end of the loop. Warp 0 then starts the next load as soon as its own
WGMMAs have retired, whether the other warps' have or not. The four run nearly in step, so this may go well
for long, and then be wrong in a few elements, others in each run: a race.

Then halve `STAGE_BYTES` where it is announced. The phase may be over when half of the bytes have landed, and
WGMMA reads what was there before. The other half is counted in the next phase, before that one's own. The
result is wrong; and where the count goes past zero without stopping there, the kernel hangs.
"""

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float8E4M3FN, Float32, Int64
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, warpgroup

from cute_gemm.testing.rungs import climb, gemm

BLOCK_M, BLOCK_N, BLOCK_K = 64, 128, 128
THREADS = 128  # one warpgroup
STAGE_BYTES = (BLOCK_M + BLOCK_N) * BLOCK_K


def swizzled(rows):
    """The layout (rows, BLOCK_K) of a tile in shared memory, in the order that TMA and WGMMA know."""
    atom = warpgroup.make_smem_layout_atom(warpgroup.SmemLayoutAtomKind.K_SW128, Float8E4M3FN)
    return cute.tile_to_shape(atom, (rows, BLOCK_K), (0, 1))


def along_k(atom, matrix, tile, rows, shared):
    """TMA's copy, where it writes, (TMA,), and where it reads a tile's k-blocks, (TMA, restK)."""
    blocks = cute.local_tile(matrix, (rows, BLOCK_K), (tile, None))  # (rows, bK, restK)
    both = cute.group_modes(shared, 0, 2), cute.group_modes(blocks, 0, 2)
    return atom, *cpasync.tma_partition(atom, 0, cute.make_layout(1), *both)


def wgmma():
    """The WGMMA of 64 x BLOCK_N x 32, both operands in shared memory."""
    k, shared = OperandMajorMode.K, warpgroup.OperandSource.SMEM
    op = warpgroup.MmaF8Op(Float8E4M3FN, Float8E4M3FN, Float32, (64, BLOCK_N, 32), shared, k, k)
    return cute.make_tiled_mma(cute.make_mma_atom(op), (1, 1, 1))


class Gemm:
    """D = A @ B.T of e4m3, a tile of D a CTA."""

    @cute.struct
    class Storage:
        """Shared memory."""

        full: Int64
        sA: cute.struct.Align[cute.struct.MemRange[Float8E4M3FN, BLOCK_M * BLOCK_K], 1024]
        sB: cute.struct.Align[cute.struct.MemRange[Float8E4M3FN, BLOCK_N * BLOCK_K], 1024]

    @cute.jit
    def __call__(self, mA, mB, mD, stream):
        """Makes the TMA atoms, and launches a CTA a tile."""
        load = cpasync.CopyBulkTensorTileG2SOp()
        atom_a, mA = cpasync.make_tiled_tma_atom(load, mA, swizzled(BLOCK_M), (BLOCK_M, BLOCK_K))
        atom_b, mB = cpasync.make_tiled_tma_atom(load, mB, swizzled(BLOCK_N), (BLOCK_N, BLOCK_K))
        grid = (cute.ceil_div(mD.shape[0], BLOCK_M), cute.ceil_div(mD.shape[1], BLOCK_N), 1)
        self.kernel((atom_a, mA), (atom_b, mB), mD).launch(grid=grid, block=(THREADS, 1, 1), stream=stream)

    @cute.kernel
    def kernel(self, a, b, mD):
        """One tile of D."""
        thread, (tile_m, tile_n, _) = cute.arch.thread_idx()[0], cute.arch.block_idx()
        warp = cute.arch.make_warp_uniform(thread // 32)
        storage = cutlass.memory.SmemAllocator().allocate(self.Storage)
        full = storage.full.ptr
        sA = storage.sA.get_tensor(swizzled(BLOCK_M).outer, swizzle=swizzled(BLOCK_M).inner)
        sB = storage.sB.get_tensor(swizzled(BLOCK_N).outer, swizzle=swizzled(BLOCK_N).inner)
        if warp == 0:
            with cute.arch.elect_one():
                cute.arch.mbarrier_init(full, 1)
        cute.arch.mbarrier_init_fence()
        cute.arch.sync_threads()

        atom_a, tAsA, tAgA = along_k(*a, tile_m, BLOCK_M, sA)
        atom_b, tBsB, tBgB = along_k(*b, tile_n, BLOCK_N, sB)
        mma = wgmma()
        thr_mma = mma.get_slice(thread)
        tCrA = mma.make_fragment_A(thr_mma.partition_A(sA))  # (MMA, 1, 4)
        tCrB = mma.make_fragment_B(thr_mma.partition_B(sB))
        acc = cute.make_rmem_tensor(mma.partition_shape_C((64, BLOCK_N)), Float32)
        acc.fill(0.0)
        mma.set(warpgroup.Field.ACCUMULATE, True)
        for k in cutlass.range(cute.size(tAgA, mode=[1]), unroll=1):
            if warp == 0:
                with cute.arch.elect_one():
                    cute.arch.mbarrier_arrive_and_expect_tx(full, STAGE_BYTES)
                cute.copy(atom_a, tAgA[None, k], tAsA, tma_bar_ptr=full)
                cute.copy(atom_b, tBgB[None, k], tBsB, tma_bar_ptr=full)
            cute.arch.mbarrier_wait(full, k % 2)
            warpgroup.fence()
            cute.gemm(mma, acc, tCrA, tCrB, acc)
            warpgroup.commit_group()
            warpgroup.wait_group(0)
            cute.arch.sync_threads()

        gD = cute.local_tile(mD, (BLOCK_M, BLOCK_N), (tile_m, tile_n))
        tCgD = thr_mma.partition_C(gD)
        for i in cutlass.range_constexpr(cute.size(acc)):
            tCgD[i] = acc[i].to(BFloat16)


SHAPES = [(4096, 4096, k) for k in (7168, 128, 1024, 32768)]
OVER_K = tuple((1024, 1024, 128 << i) for i in range(10))
RUNG = gemm(__file__, Gemm(), *SHAPES, scaled=False, limit=1e-3, over_k=OVER_K)

if __name__ == "__main__":
    climb(RUNG)
