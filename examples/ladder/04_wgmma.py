"""One WGMMA: who holds which element.

    python examples/ladder/04_wgmma.py

WGMMA is the instruction by which a *warpgroup*, four warps or 128 threads, asks the tensor core to multiply:
it takes 64 rows of A and up to 256 of B from shared memory, 32 bytes of each row, and adds their products to
sums in FP32, here 64 x 128, which are in *registers*. The threads do not load A and B; they say where the
tiles begin and how they are swizzled.

It is asynchronous, so four calls belong together:

| call | what for |
|---|---|
| `warpgroup.fence()` | what threads wrote to the sums is there before the tensor core adds to it |
| `cute.gemm(...)` | asks; with a tile of 128 columns of FP8 these are four WGMMAs, of 32 columns each |
| `warpgroup.commit_group()` | makes a group of what was asked for |
| `warpgroup.wait_group(0)` | waits until no group is left: before that, nobody may read the sums |

No thread has a row or a column of the sums to itself. Lane l of warp w holds, in 64 registers,

- the rows `16 w + l / 4` and the one eight below;
- of both the columns `8 j + 2 (l % 4)` and the next one, for j from 0 to 15;
- the upper row's pair in registers 4 j and 4 j + 1, the lower row's in 4 j + 2 and 4 j + 3.

![Which lane of the first warp holds which element](../../docs/pictures/fragment.svg)

So a register pair of a warp has 8 rows x 8 columns, two neighbours in each lane, and the four lanes of a
*quad* share two rows. The kernel computes one tile of 64 x 128, of A and B that are 128 columns long, and
stores the sums by this map, written out by hand. If the map were wrong, so would be the result.

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| 04_wgmma | 4096x4096x128 | 36.3 | 118 TFLOP/s | 19.9% | 1.4e-06 | 90 |
| 04_wgmma | 64x128x128 | 2.9 | 14 GB/s | 0.3% | 1.4e-06 | 90 |

## What follows

Four instructions of a warpgroup do the million multiply-adds of a tile; what is left of the code moves
numbers. With K = 128 the limit is memory, and nearly all of it is D, two bytes for each 128 multiply-adds:
7.2 us. The kernel takes 36.3, so it is at a fifth of the limit.

The other row is a single tile: 2.9 us for a launch, a load, the WGMMAs and a store, one after the other. By
its registers an SM holds five CTAs, so the 2048 tiles of the first shape come in four waves. Four times 2.9
us are not 36.3, so it is not the way of one tile that takes the time. The store is what is left to suspect;
it was not measured alone.

The map is the reason for that, and for much of what later rungs do. A scale for a row is wanted by the four
lanes of a quad, twice. A row of D lies in pieces of 4 bytes in four lanes, which is a bad order for writing
whole lines of memory: in rung 10 the epilogue takes a way through shared memory.

## Break it

Take the map for simpler than it is, the upper row's pairs first and the lower row's behind them: `8 * (i //
16)` in `row`, and `4 * (i % 16)` in `pair`. Each element is still written once, so nothing is missing and no
NaN is left. The check fails all the same: of a thread's 32 pairs only the first and the last are in their
places. With an error of `1 - 2<x,y> / (<x,x> + <y,y>)`, unrelated numbers give 1, and one right element of 16
makes that about 0.94.
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
    """D = A @ B.T of e4m3 with 128 columns, a tile of D a CTA."""

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

        gA = cute.local_tile(mA, (BLOCK_M, BLOCK_K), (tile_m, 0))  # (bM, bK)
        gB = cute.local_tile(mB, (BLOCK_N, BLOCK_K), (tile_n, 0))
        one = cute.make_layout(1)
        # (TMA,), (TMA,)
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
        if warp == 0:
            with cute.arch.elect_one():
                cute.arch.mbarrier_arrive_and_expect_tx(full, STAGE_BYTES)
            cute.copy(atom_a, tAgA, tAsA, tma_bar_ptr=full)
            cute.copy(atom_b, tBgB, tBsB, tma_bar_ptr=full)
        cute.arch.mbarrier_wait(full, 0)
        warpgroup.fence()
        cute.gemm(mma, acc, tCrA, tCrB, acc)
        warpgroup.commit_group()
        warpgroup.wait_group(0)

        gD = cute.local_tile(mD, (BLOCK_M, BLOCK_N), (tile_m, tile_n))
        # The same with columns in pairs: (1, 2, rows, pairs).
        gD_pairs = cute.flat_divide(gD, (1, 2))
        sums = cute.make_tensor(acc.iterator, cute.make_layout((2, BLOCK_N // 4)))
        lane = thread % 32
        for i in cutlass.range_constexpr(BLOCK_N // 4):
            row = 16 * warp + lane // 4 + 8 * (i % 2)
            pair = 4 * (i // 2) + lane % 4
            gD_pairs[0, None, row, pair].store(sums[None, i].load().to(cutlass.BFloat16))


RUNG = gemm(__file__, Gemm(), (4096, 4096, BLOCK_K), (BLOCK_M, BLOCK_N, BLOCK_K), scaled=False)

if __name__ == "__main__":
    climb(RUNG)
