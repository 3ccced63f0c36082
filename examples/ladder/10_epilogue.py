"""The epilogue: from registers through shared memory to D, by TMA.

    python examples/ladder/10_epilogue.py

A thread has pairs of neighbouring elements of D, scattered over two rows. Written as they are, each store of
a warp touches eight rows, 16 bytes in each, and D wants lines of 128. So the sums take the way that A and B
came:

1. They are rounded to bf16, in registers.
2. `stmatrix` writes them to shared memory. One instruction takes four 8x8 matrices from a warp's registers,
   in just the order in which WGMMA left them, and writes each of their rows as 16 bytes, swizzled: no two of
   them hit the same bank.
3. `fence_proxy`. Threads write through one path to shared memory (the *generic proxy*), TMA reads through
   another (the *async proxy*). Without the fence TMA may not see what is still on the first.
4. A named barrier of the warpgroup's 128 threads: all have written, and each has fenced its own writes.
5. One warp asks TMA to store 64 x 128, and goes on. TMA reads shared memory, and writes whole lines to D.

The two math warpgroups have a buffer and a barrier each, and do not wait for one another. A CTA may not end
before TMA has *read* the buffer (`cp_async_bulk_wait_group` with `read=True`), for its shared memory is
given to the next CTA then. It need not wait until D is written.

TMA clips what lies beyond D. So M may be any number from here on, N any multiple of 8 and K of 16, as TMA
wants rows that begin on 16 bytes. Only the scales' rows must not be read beyond the last: hence the `min`.

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| 09_two_warpgroups | 4096x4096x7168 | 231.1 | 1041 TFLOP/s | 52.6% | 1.4e-06 | 168 |
| 10_epilogue | 4096x4096x7168 | 217.5 | 1106 TFLOP/s | 55.9% | 1.4e-06 | 168 |
| 10_epilogue | 3003x3080x1040 | 36.5 | 527 TFLOP/s | 26.6% | 1.8e-06 | 168 |

## What follows

From 231.1 to 217.5 us: 6 % of the time went into how D was written. Stores are few and whole now. At the
second shape, with nine k-blocks a tile, it is 26.6 % of the limit: the fewer k-blocks, the more a tile's
beginning and end weigh.

For the tile still ends as before: the last WGMMA retires, sums are rounded and written, TMA reads them, the
CTA leaves, another one starts, initialises barriers and waits for its first k-block. In all that time the
tensor cores do nothing, and even with 56 k-blocks a tile it comes round soon. The TMA store could go on
behind it; what is missing is something to go on with. So CTAs should stay.

## Break it

Delete the `fence_proxy`. Nothing orders the threads' writes before TMA's reads, so TMA may store what the
buffer held before, which is nothing sensible. It often goes well all the same: the barrier takes some time,
and by then the writes have mostly arrived. It is wrong all the same.

Then delete the barrier instead, and the store starts when one warp has written, of four: three quarters of
the rows are a matter of luck.
"""

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float8E4M3FN, Float32, Int64
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, warpgroup

from cute_gemm.testing.rungs import climb, gemm

BLOCK_M, BLOCK_N, BLOCK_K, STAGES = 128, 128, 128, 4
# Two warpgroups multiply; the third one is there for one warp that loads. Without min_blocks_per_mp the
# compiler ignores setmaxregister.
MATH_WARPS, LOAD_REGISTERS, MATH_REGISTERS = 8, 40, 232  # of a thread; each starts with 168
LAUNCH = {"block": (384, 1, 1), "min_blocks_per_mp": 1}
STAGE_BYTES = (BLOCK_M + BLOCK_N) * BLOCK_K


def swizzled(rows, columns=BLOCK_K, stages=STAGES, dtype=Float8E4M3FN):
    """The layout (rows, columns, stages) in shared memory, in the order that TMA and WGMMA know."""
    atom = warpgroup.make_smem_layout_atom(warpgroup.SmemLayoutAtomKind.K_SW128, dtype)
    return cute.tile_to_shape(atom, (rows, columns, stages), (0, 1, 2))


def tma_copy(op, matrix, rows, columns=BLOCK_K, *more):
    """TMA's copy of (rows, columns) to or from a stage, and the matrix by TMA's coordinates."""
    stage = cute.slice_(swizzled(rows, columns, *more), (None, None, 0))
    return cpasync.make_tiled_tma_atom(op, matrix, stage, (rows, columns))


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
def multiply(partial, tCrA, tCrB):
    """Issues a k-block's four WGMMAs into ``partial``: the first overwrites it, the others add to it."""
    warpgroup.fence()
    for k in cutlass.range_constexpr(BLOCK_K // 32):
        mma = wgmma()  # a fresh one each time: ACCUMULATE is a field of it
        mma.set(warpgroup.Field.ACCUMULATE, k != 0)
        cute.gemm(mma, partial, tCrA[None, None, k], tCrB[None, None, k], partial)
    warpgroup.commit_group()


@cute.jit
def store(atom_d, mD, sD, acc, tile_m, tile_n, thread, warp):
    """Writes a warpgroup's 64 rows; its first warp issues the TMA store, which goes on behind it."""
    # Barriers 1 and 2 are the warpgroups' own; 0 is sync_threads.
    half_m, own = warp // 4, {"barrier_id": 1 + warp // 4, "number_of_threads": 128}
    stmatrix = cute.make_copy_atom(cute.nvgpu.warp.StMatrix8x8x16bOp(False, 4), BFloat16)
    r2s = cute.make_tiled_copy_C(stmatrix, wgmma()).get_slice(thread % 128)
    rD = cute.make_rmem_tensor_like(acc, BFloat16)
    rD.store(acc.load().to(BFloat16))
    cute.copy(r2s, r2s.retile(rD), r2s.partition_D(sD)[None, None, None, half_m])  # (R2S, R2S_M, R2S_N)
    cute.arch.fence_proxy("async.shared", space="cta")
    cute.arch.barrier(**own)
    gD = cute.local_tile(mD, (64, BLOCK_N), (2 * tile_m + half_m, tile_n))  # (64, bN)
    both = cute.group_modes(sD, 0, 2), cute.group_modes(gD, 0, 2)
    bSG_sD, bSG_gD = cpasync.tma_partition(atom_d, 0, cute.make_layout(1), *both)  # (TMA, 2), (TMA,)
    if warp % 4 == 0:
        cute.copy(atom_d, bSG_sD[None, half_m], bSG_gD)
        cute.arch.cp_async_bulk_commit_group()


class Gemm:
    """D = A @ B.T of e4m3 with scales, a tile of D a CTA."""

    @cute.struct
    class Storage:
        """Shared memory."""

        barriers: cute.struct.MemRange[Int64, 2 * STAGES]
        sA: cute.struct.Align[cute.struct.MemRange[Float8E4M3FN, STAGES * BLOCK_M * BLOCK_K], 1024]
        sB: cute.struct.Align[cute.struct.MemRange[Float8E4M3FN, STAGES * BLOCK_N * BLOCK_K], 1024]
        sD: cute.struct.Align[cute.struct.MemRange[BFloat16, BLOCK_M * BLOCK_N], 1024]

    @cute.jit
    def __call__(self, mA, mSFA, mB, mSFB, mD, stream):
        """Makes the TMA atoms, and launches a CTA a tile."""
        load = cpasync.CopyBulkTensorTileG2SOp()
        a, b = tma_copy(load, mA, BLOCK_M), tma_copy(load, mB, BLOCK_N)
        d = tma_copy(cpasync.CopyBulkTensorTileS2GOp(), mD, 64, BLOCK_N, 2, BFloat16)
        grid = (cute.ceil_div(mD.shape[0], BLOCK_M), cute.ceil_div(mD.shape[1], BLOCK_N), 1)
        self.kernel(a, mSFA, b, mSFB, d).launch(grid=grid, **LAUNCH, stream=stream)

    @cute.kernel
    def kernel(self, a, mSFA, b, mSFB, d):
        """One tile of D."""
        thread, warp = cute.arch.thread_idx()[0], cute.arch.make_warp_uniform(cute.arch.warp_idx())
        storage = cutlass.memory.SmemAllocator().allocate(self.Storage)
        full, empty = storage.barriers.data_ptr(), storage.barriers.data_ptr() + STAGES
        sA = storage.sA.get_tensor(swizzled(BLOCK_M).outer, swizzle=swizzled(BLOCK_M).inner)
        sB = storage.sB.get_tensor(swizzled(BLOCK_N).outer, swizzle=swizzled(BLOCK_N).inner)
        halves = swizzled(64, BLOCK_N, 2, BFloat16)  # of the tile of D, one for each math warpgroup
        sD = storage.sD.get_tensor(halves.outer, swizzle=halves.inner)
        if warp == 0:
            with cute.arch.elect_one():
                for stage in cutlass.range_constexpr(STAGES):
                    cute.arch.mbarrier_init(full + stage, 1)
                    cute.arch.mbarrier_init(empty + stage, MATH_WARPS)
        cute.arch.mbarrier_init_fence()
        cute.arch.sync_threads()

        if warp < MATH_WARPS:
            self.multiply_all(sA, mSFA, sB, mSFB, d, sD, full, empty, thread, warp)
        else:
            cute.arch.setmaxregister_decrease(LOAD_REGISTERS)
            if warp == MATH_WARPS:
                self.load_all(a, sA, b, sB, mSFB.shape[1], full, empty)

    @cute.jit
    def load_all(self, a, sA, b, sB, k_blocks, full, empty):
        """Role of one warp: keeps the ring full."""
        tile_m, tile_n, _ = cute.arch.block_idx()
        loads = along_k(*a, tile_m, BLOCK_M, sA), along_k(*b, tile_n, BLOCK_N, sB)
        for k in cutlass.range(k_blocks, unroll=1):
            stage = k % STAGES
            cute.arch.mbarrier_wait(empty + stage, k // STAGES % 2 ^ 1)
            with cute.arch.elect_one():
                cute.arch.mbarrier_arrive_and_expect_tx(full + stage, STAGE_BYTES)
            for atom, shared, blocks in loads:
                cute.copy(atom, blocks[None, k], shared[None, stage], tma_bar_ptr=full + stage)

    @cute.jit
    def multiply_all(self, sA, mSFA, sB, mSFB, d, sD, full, empty, thread, warp):
        """Role of two warpgroups: each multiplies, promotes and stores 64 rows."""
        cute.arch.setmaxregister_increase(MATH_REGISTERS)
        tile_m, tile_n, _ = cute.arch.block_idx()
        sA = cute.local_tile(sA, (64, BLOCK_K, STAGES), (warp // 4, 0, 0))  # (64, bK, stages)
        mma = wgmma()
        tCrA = mma.make_fragment_A(mma.get_slice(0).partition_A(sA))  # (MMA, 1, 4, stages)
        tCrB = mma.make_fragment_B(mma.get_slice(0).partition_B(sB))
        sums = mma.partition_shape_C((64, BLOCK_N))
        acc, partial = (cute.make_rmem_tensor(sums, Float32) for _ in range(2))
        acc.fill(0.0)
        # The rows of registers 0 and 1, and of 2 and 3; beyond M the last row: nothing of it is stored.
        first = tile_m * BLOCK_M + warp * 16 + thread % 32 // 4
        rows = [cutlass.min(first + 8 * half, mSFA.shape[0] - 1) for half in range(2)]
        for k in cutlass.range(mSFB.shape[1], unroll=1):
            stage = k % STAGES
            cute.arch.mbarrier_wait(full + stage, k // STAGES % 2)
            multiply(partial, tCrA[None, None, None, stage], tCrB[None, None, None, stage])
            scale = [mSFA[row, k] * mSFB[tile_n, k] for row in rows]
            warpgroup.wait_group(0)
            with cute.arch.elect_one():
                cute.arch.mbarrier_arrive(empty + stage)
            for i in cutlass.range_constexpr(cute.size(acc)):  # the promotion
                acc[i] += partial[i] * scale[i // 2 % 2]

        store(*d, sD, acc, tile_m, tile_n, thread, warp)
        cute.arch.cp_async_bulk_wait_group(0, read=True)


RUNG = gemm(__file__, Gemm(), (4096, 4096, 7168), (3003, 3080, 1040))  # the second fits no tile

if __name__ == "__main__":
    climb(RUNG)
