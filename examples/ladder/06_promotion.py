"""Promotion: a partial sum a k-block, scaled and added in FP32.

    python examples/ladder/06_promotion.py

The tensor core's sum now ends after one k-block. Its first WGMMA overwrites the registers instead of adding
to them (`ACCUMULATE` is false), and when the four have retired, the CUDA cores *promote* what they computed:

    acc += partial * scale        # FP32, one FFMA an element

So no sum in the tensor core is longer than 128 terms, whatever K is, and the error stays where it was for K
= 128. It costs a second set of 64 registers.

Scales fit in with that. FP8 has 8 bits, so each 1x128 of A and each 128x128 of B has a scale of its
own, an FP32 number, such that the stored values use the range of FP8. A k-block is 128 deep, hence all that
a thread sums up in a k-block has one scale of B, and one of A for each row. A thread has two rows: registers
0 and 1 of each four are of the one, 2 and 3 of the other, which is eight below. Two products of scales, two
FMULs, serve 64 FFMAs. They are read by plain loads, behind the issue of the WGMMAs: those run meanwhile.

From this rung on, each result is compared with the FP64 product of the dequantised operands, for each
128x128 tile, and must be as near as rounding to bf16 allows. M must be a multiple of 64, N of 128.

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| 05_k_loop | 4096x4096x7168 | 275.7 | 872 TFLOP/s | 44.1% | 3.3e-06 | 90 |
| 06_promotion | 4096x4096x7168 | 367.6 | 654 TFLOP/s | 33.1% | 1.4e-06 | 143 |

## What follows

The error is 1.4e-06, as at K = 128. That was the point, and it has its price: 367.6 us in place of 275.7, a
third more. While a warpgroup promotes, its WGMMAs stand still, for they would overwrite what is being added
up. A k-block of this tile keeps the tensor core busy for 4 x 64 cycles; the promotion is 64 FFMAs of each
thread, at least 64 cycles more, and then come the next k-block's load and its way through memory. Other CTAs
on the SM fill the gaps as they did before, but with 143 registers a thread only three fit, not five. How the
loss is divided between promotion and fewer CTAs was not measured.

So two waits are worth removing: that for the load, which rung 7 starts earlier, and that for the promotion,
which rung 9 puts beside another warpgroup's WGMMAs.

## Break it

Put `mma.set(warpgroup.Field.ACCUMULATE, True)` in `multiply`. Each partial sum then holds all k-blocks
before it as well, and is added again and again, each time with the scales of another k-block; and the first
of all adds to registers that nobody set. The check fails in every tile.

Then move the promotion in front of `warpgroup.wait_group(0)`. It would read registers that WGMMA still
writes. The compiler sees that, and puts a wait of its own before them: with `--sass` you count two
`WARPGROUP.DEPBAR` where there was one, and the result is right. It protects registers only. Of shared memory
that TMA may write again it knows nothing: there the place of the wait is yours.
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

        full: Int64
        sA: cute.struct.Align[cute.struct.MemRange[Float8E4M3FN, BLOCK_M * BLOCK_K], 1024]
        sB: cute.struct.Align[cute.struct.MemRange[Float8E4M3FN, BLOCK_N * BLOCK_K], 1024]

    @cute.jit
    def __call__(self, mA, mSFA, mB, mSFB, mD, stream):
        """Makes the TMA atoms, and launches a CTA a tile."""
        load = cpasync.CopyBulkTensorTileG2SOp()
        atom_a, mA = cpasync.make_tiled_tma_atom(load, mA, swizzled(BLOCK_M), (BLOCK_M, BLOCK_K))
        atom_b, mB = cpasync.make_tiled_tma_atom(load, mB, swizzled(BLOCK_N), (BLOCK_N, BLOCK_K))
        grid = (cute.ceil_div(mD.shape[0], BLOCK_M), cute.ceil_div(mD.shape[1], BLOCK_N), 1)
        kernel = self.kernel((atom_a, mA), mSFA, (atom_b, mB), mSFB, mD)
        kernel.launch(grid=grid, block=(THREADS, 1, 1), stream=stream)

    @cute.kernel
    def kernel(self, a, mSFA, b, mSFB, mD):
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
        sums = mma.partition_shape_C((64, BLOCK_N))
        acc, partial = (cute.make_rmem_tensor(sums, Float32) for _ in range(2))
        acc.fill(0.0)
        # The row of registers 0 and 1; that of 2 and 3 is eight below.
        row = tile_m * BLOCK_M + warp * 16 + thread % 32 // 4
        for k in cutlass.range(cute.size(tAgA, mode=[1]), unroll=1):
            if warp == 0:
                with cute.arch.elect_one():
                    cute.arch.mbarrier_arrive_and_expect_tx(full, STAGE_BYTES)
                cute.copy(atom_a, tAgA[None, k], tAsA, tma_bar_ptr=full)
                cute.copy(atom_b, tBgB[None, k], tBsB, tma_bar_ptr=full)
            cute.arch.mbarrier_wait(full, k % 2)
            multiply(partial, tCrA, tCrB)
            scale = [mSFA[row + 8 * half, k] * mSFB[tile_n, k] for half in range(2)]
            warpgroup.wait_group(0)
            cute.arch.sync_threads()
            for i in cutlass.range_constexpr(cute.size(acc)):  # the promotion
                acc[i] += partial[i] * scale[i // 2 % 2]

        gD = cute.local_tile(mD, (BLOCK_M, BLOCK_N), (tile_m, tile_n))
        tCgD = thr_mma.partition_C(gD)
        for i in cutlass.range_constexpr(cute.size(acc)):
            tCgD[i] = acc[i].to(BFloat16)


RUNG = gemm(__file__, Gemm())

if __name__ == "__main__":
    climb(RUNG)
