"""A loop over K with one stage, FP8, nothing promoted.

    python examples/ladder/05_k_loop.py
"""

import cutlass
import cutlass.cute as cute
from cutlass.cute.nvgpu import cpasync, warpgroup
from cutlass.memory import SmemAllocator

from cute_gemm.testing.rungs import climb, gemm

BLOCK_M, BLOCK_N, BLOCK_K = 64, 128, 128
THREADS = 128  # one warpgroup
STAGE_BYTES = (BLOCK_M + BLOCK_N) * BLOCK_K


def swizzled(rows):
    """The layout (rows, BLOCK_K) of a tile in shared memory, in the order that TMA and WGMMA know."""
    atom = warpgroup.make_smem_layout_atom(warpgroup.SmemLayoutAtomKind.K_SW128, cutlass.Float8E4M3FN)
    return cute.tile_to_shape(atom, (rows, BLOCK_K), (0, 1))


class Gemm:
    """D = A @ B.T of e4m3, a tile of D a CTA."""

    @cute.jit
    def __call__(self, mA, mB, mD, stream):
        """Makes the TMA atoms, and launches a CTA a tile."""
        load = cpasync.CopyBulkTensorTileG2SOp()
        atom_a, mA = cpasync.make_tiled_tma_atom(load, mA, swizzled(BLOCK_M), (BLOCK_M, BLOCK_K))
        atom_b, mB = cpasync.make_tiled_tma_atom(load, mB, swizzled(BLOCK_N), (BLOCK_N, BLOCK_K))

        @cute.struct
        class Storage:
            full: cutlass.Int64
            sA: cute.struct.Align[cute.struct.MemRange[cutlass.Float8E4M3FN, BLOCK_M * BLOCK_K], 1024]
            sB: cute.struct.Align[cute.struct.MemRange[cutlass.Float8E4M3FN, BLOCK_N * BLOCK_K], 1024]

        self.Storage = Storage
        grid = (cute.ceil_div(mD.shape[0], BLOCK_M), cute.ceil_div(mD.shape[1], BLOCK_N), 1)
        self.kernel(atom_a, mA, atom_b, mB, mD).launch(grid=grid, block=(THREADS, 1, 1), stream=stream)

    @cute.kernel
    def kernel(self, atom_a: cute.CopyAtom, mA, atom_b: cute.CopyAtom, mB, mD):
        """One tile of D."""
        thread, (tile_m, tile_n, _) = cute.arch.thread_idx()[0], cute.arch.block_idx()
        warp = cute.arch.make_warp_uniform(thread // 32)
        storage = SmemAllocator().allocate(self.Storage)
        full = storage.full.ptr
        sA = storage.sA.get_tensor(swizzled(BLOCK_M).outer, swizzle=swizzled(BLOCK_M).inner)
        sB = storage.sB.get_tensor(swizzled(BLOCK_N).outer, swizzle=swizzled(BLOCK_N).inner)
        if warp == 0:
            with cute.arch.elect_one():
                cute.arch.mbarrier_init(full, 1)
        cute.arch.mbarrier_init_fence()
        cute.arch.sync_threads()

        gA = cute.local_tile(mA, (BLOCK_M, BLOCK_K), (tile_m, None))  # (bM, bK, restK)
        gB = cute.local_tile(mB, (BLOCK_N, BLOCK_K), (tile_n, None))
        one = cute.make_layout(1)
        # (TMA,), (TMA, restK)
        tAsA, tAgA = cpasync.tma_partition(
            atom_a, 0, one, cute.group_modes(sA, 0, 2), cute.group_modes(gA, 0, 2)
        )
        tBsB, tBgB = cpasync.tma_partition(
            atom_b, 0, one, cute.group_modes(sB, 0, 2), cute.group_modes(gB, 0, 2)
        )

        op = warpgroup.MmaF8Op(
            cutlass.Float8E4M3FN,
            cutlass.Float8E4M3FN,
            cutlass.Float32,
            (64, BLOCK_N, 32),
            warpgroup.OperandSource.SMEM,
            cute.nvgpu.OperandMajorMode.K,
            cute.nvgpu.OperandMajorMode.K,
        )
        mma = cute.make_tiled_mma(cute.make_mma_atom(op), (1, 1, 1))
        thr_mma = mma.get_slice(thread)
        tCrA = mma.make_fragment_A(thr_mma.partition_A(sA))  # (MMA, 1, 4)
        tCrB = mma.make_fragment_B(thr_mma.partition_B(sB))
        acc = cute.make_rmem_tensor(mma.partition_shape_C((BLOCK_M, BLOCK_N)), cutlass.Float32)
        acc.fill(0.0)
        mma.set(warpgroup.Field.ACCUMULATE, True)
        for k in cutlass.range(cute.size(gA, mode=[2]), unroll=1):
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
            tCgD[i] = acc[i].to(cutlass.BFloat16)


RUNG = gemm(__file__, Gemm(), scaled=False, limit=1e-3)

if __name__ == "__main__":
    climb(RUNG)
