"""A cluster of two: A is loaded once, for both.

    python examples/ladder/12_cluster.py

The CTAs of a *cluster* are resident together, and reach into each other's shared memory. Two of them compute
tiles side by side along N: their B differ, but their A is the same. The first CTA loads it for both by
*multicast*: TMA reads L2 once, and writes to the same address of both CTAs' shared memory, and counts the
bytes at the same barrier of both. For two tiles L2 now gives 48 KB a k-block in place of 64.

What that asks of the barriers:

- `full`: each CTA announces *all* bytes of its own stage, 32 KB, whoever loads them. Bytes that arrive
  before they were announced do no harm: the count is below zero for a while, and the phase cannot be over
  before the CTA's own arrival.
- `empty`: the first CTA writes to the other one's stage, so it must know that *both* have read it. Each math
  warp gives a stage back to both CTAs, lane 0 to the first and lane 1 to the second: 16 arrivals a phase.
- At the start all threads of both CTAs meet, so that nobody's barrier is used before it is initialised.
- At the end a CTA must not leave while its peer may still arrive at its barriers. So the warp that loads
  waits until all of its last four stages were given back, by both.

Clusters walk pairs of tiles as CTAs walked tiles. With an odd number of tiles along N the last pair's second
one lies beyond D: TMA loads zeros for it and stores nothing.

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| 11_persistence | 4096x4096x7168 | 207.2 | 1161 TFLOP/s | 58.7% | 1.4e-06 | 168 |
| 11_persistence | 3003x3080x1040 | 32.9 | 584 TFLOP/s | 29.5% | 1.8e-06 | 168 |
| 12_cluster | 4096x4096x7168 | 209.2 | 1149 TFLOP/s | 58.1% | 1.4e-06 | 168 |
| 12_cluster | 3003x3080x1040 | 28.1 | 685 TFLOP/s | 34.6% | 1.8e-06 | 168 |

## What follows

Two results. At 4096x4096x7168 nothing is gained: 209.2 us where rung 11 took 207.2, a difference of 1 %, no
more than runs differ by. A quarter fewer bytes come from L2, and the time stays. Either L2 was not what rung
11 waited for, or as much is lost by tying the two CTAs together: a stage is filled when the slower one has
read it, which the other three stages have to make up for. Which of the two it is was not measured.

At 3003x3080x1040 the same cluster takes 28.1 us in place of 32.9, 15 % less. There a tile has only nine
k-blocks, so all that is not the loop weighs more. What of it the cluster makes shorter is not known: no
counters were read. The number of waves is not it, five with and without clusters.

Loading is well looked after now. Look at what a math warp does besides WGMMA and FFMA in a k-block: it
computes addresses of scales, loads three of them from global memory, and waits for them before it can
promote. Each quad of lanes loads the same two scales of A from rows that are far apart. The next rung has
them brought.

## Break it

Announce in each CTA only what it loads itself: in the second, `BLOCK_N * BLOCK_K` bytes. Its phase is over
when that many have landed, whichever they are. WGMMA then reads A or B too early, and the bytes that were
not announced end up in the next phase: wrong, then a hang.

Then delete the last loop of `load_all`. Nearly always it still works. But a CTA that has ended gives its
shared memory back, and an arrival at a barrier that is no more is an error of the whole launch, or a
corrupted barrier of the CTA that comes next: now and then, at the end of a kernel, when one CTA was much
faster.
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
        sD: cute.struct.Align[cute.struct.MemRange[BFloat16, BLOCK_M * BLOCK_N], 1024]

    @cute.jit
    def __call__(self, mA, mSFA, mB, mSFB, mD, stream):
        """Makes the TMA atoms, and launches a cluster for each two SMs."""
        load, multicast = cpasync.CopyBulkTensorTileG2SOp(), cpasync.CopyBulkTensorTileG2SMulticastOp()
        a, b = tma_copy(multicast, mA, BLOCK_M), tma_copy(load, mB, BLOCK_N)
        d = tma_copy(cpasync.CopyBulkTensorTileS2GOp(), mD, 64, BLOCK_N, 2, BFloat16)
        pairs = cute.ceil_div(mD.shape[0], BLOCK_M), cute.ceil_div(mD.shape[1], CLUSTER * BLOCK_N)
        grid = (CLUSTER, cutlass.min(pairs[0] * pairs[1], SMS // CLUSTER), 1)
        self.kernel(a, mSFA, b, mSFB, d, pairs).launch(grid=grid, **LAUNCH, stream=stream)

    @cute.kernel
    def kernel(self, a, mSFA, b, mSFB, d, pairs):
        """Pairs of tiles c, c + C, c + 2 C ... of D for cluster c of C."""
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
                    cute.arch.mbarrier_init(empty + stage, MATH_WARPS * CLUSTER)
        cute.arch.mbarrier_init_fence()
        cute.arch.cluster_arrive_relaxed()
        cute.arch.cluster_wait()

        if warp < MATH_WARPS:
            self.multiply_all(sA, mSFA, sB, mSFB, d, sD, full, empty, pairs, thread, warp)
        else:
            cute.arch.setmaxregister_decrease(LOAD_REGISTERS)
            if warp == MATH_WARPS:
                self.load_all(a, sA, b, sB, mSFB.shape[1], full, empty, pairs)

    @cute.jit
    def load_all(self, a, sA, b, sB, k_blocks, full, empty, pairs):
        """Role of one warp: keeps the ring full."""
        n = Int32(0)  # k-blocks so far, of all tiles
        for index in cutlass.range(cute.arch.block_idx()[1], pairs[0] * pairs[1], SMS // CLUSTER, unroll=1):
            tile_m, tile_n = tile_of(index, *pairs)
            atom_a, tAsA, tAgA = along_k(*a, tile_m, BLOCK_M, sA)
            atom_b, tBsB, tBgB = along_k(*b, tile_n, BLOCK_N, sB)
            for k in cutlass.range(k_blocks, unroll=1):
                stage = n % STAGES
                cute.arch.mbarrier_wait(empty + stage, n // STAGES % 2 ^ 1)
                with cute.arch.elect_one():  # each CTA announces all bytes of its stage, whoever loads them
                    cute.arch.mbarrier_arrive_and_expect_tx(full + stage, STAGE_BYTES)
                to, to_all = {"tma_bar_ptr": full + stage}, {"mcast_mask": Int32((1 << CLUSTER) - 1)}
                if cute.arch.block_idx()[0] == 0:  # the first CTA loads A for both
                    cute.copy(atom_a, tAgA[None, k], tAsA[None, stage], **to, **to_all)
                cute.copy(atom_b, tBgB[None, k], tBsB[None, stage], **to)
                n += 1
        # Until all stages are released: a CTA must not end while its peer may still arrive at its barriers.
        for last in cutlass.range(n, n + STAGES, unroll=1):
            cute.arch.mbarrier_wait(empty + last % STAGES, last // STAGES % 2 ^ 1)

    @cute.jit
    def multiply_all(self, sA, mSFA, sB, mSFB, d, sD, full, empty, pairs, thread, warp):
        """Role of two warpgroups: each multiplies, promotes and stores 64 rows."""
        cute.arch.setmaxregister_increase(MATH_REGISTERS)
        sA = cute.local_tile(sA, (64, BLOCK_K, STAGES), (warp // 4, 0, 0))  # (64, bK, stages)
        mma = wgmma()
        tCrA = mma.make_fragment_A(mma.get_slice(0).partition_A(sA))  # (MMA, 1, 4, stages)
        tCrB = mma.make_fragment_B(mma.get_slice(0).partition_B(sB))
        sums = mma.partition_shape_C((64, BLOCK_N))
        acc, partial = (cute.make_rmem_tensor(sums, Float32) for _ in range(2))
        n = Int32(0)
        for index in cutlass.range(cute.arch.block_idx()[1], pairs[0] * pairs[1], SMS // CLUSTER, unroll=1):
            tile_m, tile_n = tile_of(index, *pairs)
            block_n = cutlass.min(tile_n, mSFB.shape[0] - 1)  # a pair's second tile may lie beyond N
            acc.fill(0.0)
            # The rows of registers 0 and 1, and of 2 and 3; beyond M the last row: nothing of it is stored.
            first = tile_m * BLOCK_M + warp * 16 + thread % 32 // 4
            rows = [cutlass.min(first + 8 * half, mSFA.shape[0] - 1) for half in range(2)]
            for k in cutlass.range(mSFB.shape[1], unroll=1):
                stage = n % STAGES
                cute.arch.mbarrier_wait(full + stage, n // STAGES % 2)
                multiply(partial, tCrA[None, None, None, stage], tCrB[None, None, None, stage])
                scale = [mSFA[row, k] * mSFB[block_n, k] for row in rows]
                warpgroup.wait_group(0)
                if thread % 32 < CLUSTER:  # lane r releases the stage to CTA r
                    cute.arch.mbarrier_arrive(empty + stage, thread % 32)
                for i in cutlass.range_constexpr(cute.size(acc)):  # the promotion
                    acc[i] += partial[i] * scale[i // 2 % 2]
                n += 1
            store(*d, sD, acc, tile_m, tile_n, thread, warp)
        cute.arch.cp_async_bulk_wait_group(0, read=True)


RUNG = gemm(__file__, Gemm(), (4096, 4096, 7168), (3003, 3080, 1040))  # the second fits no tile

if __name__ == "__main__":
    climb(RUNG)
