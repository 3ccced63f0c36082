"""Warp specialisation: one warp loads, a warpgroup multiplies.

    python examples/ladder/08_warp_specialization.py

Each warp now has one *role* for as long as the kernel runs. A warpgroup multiplies and promotes. A warp of a
second warpgroup does nothing but ask TMA for k-blocks; the three beside it leave at once. The two roles meet
only at barriers, of which each stage has two:

| barrier | arrivals a phase | who waits |
|---|---|---|
| `full[stage]` | 1, of the warp that loads, and all bytes | the math warps, before they multiply |
| `empty[stage]` | 4, one of each math warp, behind its WGMMAs | the warp that loads, before it fills |

Both are asked for by the same two numbers, the stage and the round's parity. Only the first round differs:
nobody has to empty what was never filled. So the warp that loads waits for the *opposite* phase,
`k // STAGES % 2 ^ 1`: a barrier that is new is in phase 0, and a wait for phase 1, the one before, passes.

**Registers.** An SM has 65536, and a kernel's threads all start with as many. The warp that loads needs few,
the accumulators many. `setmaxregister` moves them at run time: the second warpgroup goes down from 128 to
40, the first up to 216. 128 x 40 + 128 x 216 is just what 256 threads with 128 had; with one more, the
increase would wait for ever. All warps of a warpgroup must say it, also those that leave.

M must be a multiple of 64, N of 128.

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| 07_ring | 4096x4096x7168 | 267.9 | 898 TFLOP/s | 45.4% | 1.4e-06 | 143 |
| 08_warp_specialization | 4096x4096x7168 | 272.9 | 881 TFLOP/s | 44.5% | 1.4e-06 | 128 |

## What follows

Nothing gained: 272.9 us, where rung 7 took 267.9. Call it a draw: 1.9 % are what one and the same kernel
differs by between runs (the library's in the tutorials of examples/yours, 177.0 to 180.6 us). No
`sync_threads` is left in the loop, which has 120 instructions where there were 145, and a math warp waits for
data only. As that changes nothing, it is not what the kernel waited for.

What stayed the same is bytes: two CTAs an SM, each with an A and a B of its own, 24 KB for a million of
multiply-adds, though tiles one below the other have the same B. Rungs 5, 7 and 8 wait in three different
ways, and all three load 2.8 GB, at 10.2 to 10.5 TB/s. That points to the loads, but no counter was read to
prove it.

So put both CTAs into one: two math warpgroups, one B. That is the next rung, and for it roles are needed: a
warp that loads for two warpgroups cannot be one of theirs. The roles pay there, not here.

## Break it

Initialise `empty` with 5 arrivals in place of `MATH_WARPS`. The first round passes, for the wait is for the
phase before. In the second, the warp that loads waits for a fifth arrival that never comes, and the math
warps wait for the fifth k-block: a hang, whenever K has more than four k-blocks, and none for fewer.

With 3 arrivals the phase is over when three warps have given the stage back, so TMA may overwrite what the
fourth still reads. That one's arrival counts for the next phase, which is over even earlier; after three
rounds the phases are one ahead of those who count them. Wrong, and then a hang.
"""

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float8E4M3FN, Float32, Int64
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, warpgroup

from cute_gemm.testing.rungs import climb, gemm

BLOCK_M, BLOCK_N, BLOCK_K, STAGES = 64, 128, 128, 4
# One warpgroup multiplies; the other one is there for one warp that loads. Two CTAs share an SM and its
# registers. Without min_blocks_per_mp the compiler ignores setmaxregister; without a carve-out of L1 for
# shared memory, here all that can be, the DSL asks a driver for one, which may not be there.
MATH_WARPS, LOAD_REGISTERS, MATH_REGISTERS = 4, 40, 216  # of a thread; each starts with 128
LAUNCH = {"block": (256, 1, 1), "min_blocks_per_mp": 2, "preferred_smem_carveout": 100}
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

        barriers: cute.struct.MemRange[Int64, 2 * STAGES]
        sA: cute.struct.Align[cute.struct.MemRange[Float8E4M3FN, STAGES * BLOCK_M * BLOCK_K], 1024]
        sB: cute.struct.Align[cute.struct.MemRange[Float8E4M3FN, STAGES * BLOCK_N * BLOCK_K], 1024]

    @cute.jit
    def __call__(self, mA, mSFA, mB, mSFB, mD, stream):
        """Makes the TMA atoms, and launches a CTA a tile."""
        load = cpasync.CopyBulkTensorTileG2SOp()
        a, b = tma_copy(load, mA, BLOCK_M), tma_copy(load, mB, BLOCK_N)
        grid = (cute.ceil_div(mD.shape[0], BLOCK_M), cute.ceil_div(mD.shape[1], BLOCK_N), 1)
        self.kernel(a, mSFA, b, mSFB, mD).launch(grid=grid, **LAUNCH, stream=stream)

    @cute.kernel
    def kernel(self, a, mSFA, b, mSFB, mD):
        """One tile of D."""
        thread, warp = cute.arch.thread_idx()[0], cute.arch.make_warp_uniform(cute.arch.warp_idx())
        storage = cutlass.memory.SmemAllocator().allocate(self.Storage)
        full, empty = storage.barriers.data_ptr(), storage.barriers.data_ptr() + STAGES
        sA = storage.sA.get_tensor(swizzled(BLOCK_M).outer, swizzle=swizzled(BLOCK_M).inner)
        sB = storage.sB.get_tensor(swizzled(BLOCK_N).outer, swizzle=swizzled(BLOCK_N).inner)
        if warp == 0:
            with cute.arch.elect_one():
                for stage in cutlass.range_constexpr(STAGES):
                    cute.arch.mbarrier_init(full + stage, 1)
                    cute.arch.mbarrier_init(empty + stage, MATH_WARPS)
        cute.arch.mbarrier_init_fence()
        cute.arch.sync_threads()

        if warp < MATH_WARPS:
            self.multiply_all(sA, mSFA, sB, mSFB, mD, full, empty, thread, warp)
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
    def multiply_all(self, sA, mSFA, sB, mSFB, mD, full, empty, thread, warp):
        """Role of the first warpgroup: multiplies, promotes, stores."""
        cute.arch.setmaxregister_increase(MATH_REGISTERS)
        tile_m, tile_n, _ = cute.arch.block_idx()
        mma = wgmma()
        thr_mma = mma.get_slice(thread)
        tCrA = mma.make_fragment_A(thr_mma.partition_A(sA))  # (MMA, 1, 4, stages)
        tCrB = mma.make_fragment_B(thr_mma.partition_B(sB))
        sums = mma.partition_shape_C((64, BLOCK_N))
        acc, partial = (cute.make_rmem_tensor(sums, Float32) for _ in range(2))
        acc.fill(0.0)
        # The row of registers 0 and 1; that of 2 and 3 is eight below.
        row = tile_m * BLOCK_M + warp * 16 + thread % 32 // 4
        for k in cutlass.range(mSFB.shape[1], unroll=1):
            stage = k % STAGES
            cute.arch.mbarrier_wait(full + stage, k // STAGES % 2)
            multiply(partial, tCrA[None, None, None, stage], tCrB[None, None, None, stage])
            scale = [mSFA[row + 8 * half, k] * mSFB[tile_n, k] for half in range(2)]
            warpgroup.wait_group(0)
            with cute.arch.elect_one():
                cute.arch.mbarrier_arrive(empty + stage)
            for i in cutlass.range_constexpr(cute.size(acc)):  # the promotion
                acc[i] += partial[i] * scale[i // 2 % 2]

        gD = cute.local_tile(mD, (BLOCK_M, BLOCK_N), (tile_m, tile_n))
        tCgD = thr_mma.partition_C(gD)
        for i in cutlass.range_constexpr(cute.size(acc)):
            tCgD[i] = acc[i].to(BFloat16)


RUNG = gemm(__file__, Gemm())

if __name__ == "__main__":
    climb(RUNG)
