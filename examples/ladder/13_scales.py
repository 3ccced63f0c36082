"""Where scales come from: A's with the stage, B's a k-block ahead.

    python examples/ladder/13_scales.py

Between a full stage and its WGMMAs, and between WGMMAs and the promotion, nothing should wait for memory.
The scales did: they were loaded in the k-block that used them. They are a few bytes, so the question is not
how many come but when, and who asks.

- *A's* come with the stage. Where scales are stored M-major, those of 128 rows and one k-block lie next to
  each other: 512 bytes, which TMA loads as a third box. They land before the same barrier flips, and are
  multicast with A. The math warps read two numbers each from shared memory.
- *B's* is one number a k-block for the whole tile. Each thread loads the next k-block's as soon as it has
  used this one's: a register, and a k-block's time for the answer.

One more box means `4 * BLOCK_M` more bytes to announce. Nobody has to clamp rows any more, as TMA does; and
a stage still is given back behind its WGMMAs, since by then each lane has multiplied its scales and so has
read them.

M may be any number, N any multiple of 8, K of 16. A's scales must be M-major, and a column of them must
begin on 16 bytes: `cute_gemm.quantize` makes them so, and `m_major` turns others.

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| 12_cluster | 4096x4096x7168 | 209.2 | 1149 TFLOP/s | 58.1% | 1.4e-06 | 168 |
| 12_cluster | 3003x3080x1040 | 28.1 | 685 TFLOP/s | 34.6% | 1.8e-06 | 168 |
| 13_scales | 4096x4096x7168 | 203.7 | 1181 TFLOP/s | 59.7% | 1.4e-06 | 168 |
| 13_scales | 3003x3080x1040 | 27.4 | 702 TFLOP/s | 35.4% | 1.8e-06 | 168 |

## What follows

203.7 us where it was 209.2, and 27.4 where it was 28.1: between 2 and 3 %. That is small, and little more
than runs differ by, though both shapes say the same. The scales had been asked for behind the issue of the
WGMMAs, and while one warpgroup waits for its scales the other one multiplies: most of the wait was hidden
before.

So what is left? In SASS (`--sass`) the loop has one load of global memory, two of shared memory, and 64 FFMAs
for a k-block; 120 instructions in all, where rung 12 had 127. About fifty are neither WGMMA nor FFMA: which
stage it is and where that begins, descriptors for WGMMA, addresses of barriers, the thread's own row. They
are computed anew in each k-block, though most could be known beforehand, and some of them stand between a
full stage and its first WGMMA.

Rung 15 takes tiles of 256 x 128, which load fewer bytes for each multiply-add, and leaves as little of this
in the loop as it can. Before that, rung 14 looks at the opposite case: few rows.

## Break it

Leave `4 * BLOCK_M` out of `STAGE_BYTES`. The phase can be over 512 bytes too early, and what is missing may
be scales or operands. The bytes left over count in the next phase of this stage, so that one is over 1024
too early. The count goes on like this until a phase ends before its last box was even asked for: wrong
results first, then barriers out of step. One wrong number, and it is the check of the *result* that tells.

Then read A's scales behind `mbarrier_arrive`. The first CTA's warp may now refill the stage while you read:
the scales of some rows, in some tiles, are those of four k-blocks later.
"""

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float8E4M3FN, Float32, Int32, Int64
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, warpgroup

from cute_gemm.testing.rungs import climb, gemm

BLOCK_M, BLOCK_N, BLOCK_K, STAGES = 128, 128, 128, 4
# Two warpgroups multiply; the third one is there for one warp that loads. Without min_blocks_per_mp the
# compiler ignores setmaxregister.
MATH_WARPS, LOAD_REGISTERS, MATH_REGISTERS = 8, 40, 232  # of a thread; each starts with 168
LAUNCH = {"block": (384, 1, 1), "cluster": (2, 1, 1), "min_blocks_per_mp": 1}
# SMs of an H100 SXM or H200 (with fewer, clusters take turns); CTAs of a cluster, side by side along N, with
# the same rows of A; tiles of a band, along M.
SMS, CLUSTER, BAND = 132, 2, 8
STAGE_BYTES = (BLOCK_M + BLOCK_N) * BLOCK_K + 4 * BLOCK_M


def swizzled(rows, columns=BLOCK_K, stages=STAGES, dtype=Float8E4M3FN):
    """The layout (rows, columns, stages) in shared memory, in the order that TMA and WGMMA know."""
    atom = warpgroup.make_smem_layout_atom(warpgroup.SmemLayoutAtomKind.K_SW128, dtype)
    return cute.tile_to_shape(atom, (rows, columns, stages), (0, 1, 2))


def tma_copy(op, matrix, rows, columns=BLOCK_K, *more):
    """TMA's copy of (rows, columns) to or from a stage, and the matrix by TMA's coordinates."""
    stage = cute.slice_(swizzled(rows, columns, *more), (None, None, 0))
    return cpasync.make_tiled_tma_atom(op, matrix, stage, (rows, columns))


def along_k(atom, matrix, tile, rows, shared, depth=BLOCK_K):
    """TMA's copy, where it writes, (TMA, stages), and where it reads a tile's k-blocks, (TMA, restK)."""
    blocks = cute.local_tile(matrix, (rows, depth), (tile, None))  # (rows, depth, restK)
    both = cute.group_modes(shared, 0, 2), cute.group_modes(blocks, 0, 2)
    return atom, *cpasync.tma_partition(atom, 0, cute.make_layout(1), *both)


def wgmma():
    """The WGMMA of 64 x BLOCK_N x 32, both operands in shared memory."""
    k, shared = OperandMajorMode.K, warpgroup.OperandSource.SMEM
    op = warpgroup.MmaF8Op(Float8E4M3FN, Float8E4M3FN, Float32, (64, BLOCK_N, 32), shared, k, k)
    return cute.make_tiled_mma(cute.make_mma_atom(op), (1, 1, 1))


@cute.jit
def tile_of(index, m_tiles, n_pairs):
    """This CTA's tile of pair ``index``, in bands of BAND tiles along M, walked column by column."""
    first = index // (n_pairs * BAND) * BAND
    rows, within = cutlass.min(m_tiles - first, BAND), index - first * n_pairs
    return first + within % rows, within // rows * CLUSTER + cute.arch.block_idx()[0]


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
    cute.arch.cp_async_bulk_wait_group(0, read=True)  # whose lane issued the store of the tile before
    cute.arch.barrier(**own)
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
        sS: cute.struct.Align[cute.struct.MemRange[Float32, STAGES * BLOCK_M], 1024]
        sD: cute.struct.Align[cute.struct.MemRange[BFloat16, BLOCK_M * BLOCK_N], 1024]

    @cute.jit
    def __call__(self, mA, mSFA, mB, mSFB, mD, stream):
        """Makes the TMA atoms, and launches a cluster for each two SMs."""
        load, multicast = cpasync.CopyBulkTensorTileG2SOp(), cpasync.CopyBulkTensorTileG2SMulticastOp()
        a, b = tma_copy(multicast, mA, BLOCK_M), tma_copy(load, mB, BLOCK_N)
        scales = cpasync.make_tiled_tma_atom(multicast, mSFA, cute.make_layout((BLOCK_M, 1)), (BLOCK_M, 1))
        d = tma_copy(cpasync.CopyBulkTensorTileS2GOp(), mD, 64, BLOCK_N, 2, BFloat16)
        pairs = cute.ceil_div(mD.shape[0], BLOCK_M), cute.ceil_div(mD.shape[1], CLUSTER * BLOCK_N)
        grid = (CLUSTER, cutlass.min(pairs[0] * pairs[1], SMS // CLUSTER), 1)
        self.kernel(a, scales, b, mSFB, d, pairs).launch(grid=grid, **LAUNCH, stream=stream)

    @cute.kernel
    def kernel(self, a, scales, b, mSFB, d, pairs):
        """Pairs of tiles c, c + C, c + 2 C ... of D for cluster c of C."""
        thread, warp = cute.arch.thread_idx()[0], cute.arch.make_warp_uniform(cute.arch.warp_idx())
        storage = cutlass.memory.SmemAllocator().allocate(self.Storage)
        full, empty = storage.barriers.data_ptr(), storage.barriers.data_ptr() + STAGES
        sA = storage.sA.get_tensor(swizzled(BLOCK_M).outer, swizzle=swizzled(BLOCK_M).inner)
        sB = storage.sB.get_tensor(swizzled(BLOCK_N).outer, swizzle=swizzled(BLOCK_N).inner)
        sS = storage.sS.get_tensor(cute.make_layout((BLOCK_M, 1, STAGES), stride=(1, BLOCK_M, BLOCK_M)))
        halves = swizzled(64, BLOCK_N, 2, BFloat16)  # of the tile of D, one for each math warpgroup
        sD = storage.sD.get_tensor(halves.outer, swizzle=halves.inner)
        if warp == 0:
            with cute.arch.elect_one():
                for stage in cutlass.range_constexpr(STAGES):
                    cute.arch.mbarrier_init(full + stage, 1)
                    cute.arch.mbarrier_init(empty + stage, MATH_WARPS * CLUSTER)
        cute.arch.mbarrier_init_fence()
        cute.arch.cluster_arrive_relaxed()
        cute.arch.cluster_wait()

        if warp < MATH_WARPS:
            self.multiply_all(sA, sS, sB, mSFB, d, sD, full, empty, pairs, thread, warp)
        else:
            cute.arch.setmaxregister_decrease(LOAD_REGISTERS)
            if warp == MATH_WARPS:
                self.load_all(a, sA, scales, sS, b, sB, mSFB.shape[1], full, empty, pairs)

    @cute.jit
    def load_all(self, a, sA, scales, sS, b, sB, k_blocks, full, empty, pairs):
        """Role of one warp: keeps the ring full."""
        n = Int32(0)  # k-blocks so far, of all tiles
        for index in cutlass.range(cute.arch.block_idx()[1], pairs[0] * pairs[1], SMS // CLUSTER, unroll=1):
            tile_m, tile_n = tile_of(index, *pairs)
            of_both = along_k(*a, tile_m, BLOCK_M, sA), along_k(*scales, tile_m, BLOCK_M, sS, 1)
            atom_b, tBsB, tBgB = along_k(*b, tile_n, BLOCK_N, sB)
            for k in cutlass.range(k_blocks, unroll=1):
                stage = n % STAGES
                cute.arch.mbarrier_wait(empty + stage, n // STAGES % 2 ^ 1)
                with cute.arch.elect_one():  # each CTA announces all bytes of its stage, whoever loads them
                    cute.arch.mbarrier_arrive_and_expect_tx(full + stage, STAGE_BYTES)
                to, to_all = {"tma_bar_ptr": full + stage}, {"mcast_mask": Int32((1 << CLUSTER) - 1)}
                if cute.arch.block_idx()[0] == 0:  # the first CTA loads A for both
                    for atom, shared, blocks in of_both:
                        cute.copy(atom, blocks[None, k], shared[None, stage], **to, **to_all)
                cute.copy(atom_b, tBgB[None, k], tBsB[None, stage], **to)
                n += 1
        # Until all stages are released: a CTA must not end while its peer may still arrive at its barriers.
        for last in cutlass.range(n, n + STAGES, unroll=1):
            cute.arch.mbarrier_wait(empty + last % STAGES, last // STAGES % 2 ^ 1)

    @cute.jit
    def multiply_all(self, sA, sS, sB, mSFB, d, sD, full, empty, pairs, thread, warp):
        """Role of two warpgroups: each multiplies, promotes and stores 64 rows."""
        cute.arch.setmaxregister_increase(MATH_REGISTERS)
        sA = cute.local_tile(sA, (64, BLOCK_K, STAGES), (warp // 4, 0, 0))  # (64, bK, stages)
        mma = wgmma()
        tCrA = mma.make_fragment_A(mma.get_slice(0).partition_A(sA))  # (MMA, 1, 4, stages)
        tCrB = mma.make_fragment_B(mma.get_slice(0).partition_B(sB))
        sums = mma.partition_shape_C((64, BLOCK_N))
        acc, partial = (cute.make_rmem_tensor(sums, Float32) for _ in range(2))
        row = warp * 16 + thread % 32 // 4  # of the tile, for registers 0 and 1; 8 more for 2 and 3
        k_blocks, n = mSFB.shape[1], Int32(0)
        for index in cutlass.range(cute.arch.block_idx()[1], pairs[0] * pairs[1], SMS // CLUSTER, unroll=1):
            tile_m, tile_n = tile_of(index, *pairs)
            block_n = cutlass.min(tile_n, mSFB.shape[0] - 1)  # a pair's second tile may lie beyond N
            acc.fill(0.0)
            scale_b = mSFB[block_n, 0]
            for k in cutlass.range(k_blocks, unroll=1):
                stage = n % STAGES
                cute.arch.mbarrier_wait(full + stage, n // STAGES % 2)
                multiply(partial, tCrA[None, None, None, stage], tCrB[None, None, None, stage])
                scale = [sS[row + 8 * half, 0, stage] * scale_b for half in range(2)]
                scale_b = mSFB[block_n, cutlass.min(k + 1, k_blocks - 1)]
                warpgroup.wait_group(0)
                if thread % 32 < CLUSTER:  # lane r releases the stage to CTA r
                    cute.arch.mbarrier_arrive(empty + stage, thread % 32)
                for i in cutlass.range_constexpr(cute.size(acc)):  # the promotion
                    acc[i] += partial[i] * scale[i // 2 % 2]
                n += 1
            store(*d, sD, acc, tile_m, tile_n, thread, warp)
        cute.arch.cp_async_bulk_wait_group(0, read=True)


SHAPES = (4096, 4096, 7168), (3003, 3080, 1040)  # the second fits no tile
RUNG = gemm(__file__, Gemm(), *SHAPES, m_major_scales=True)

if __name__ == "__main__":
    climb(RUNG)
