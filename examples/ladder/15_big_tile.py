"""Tiles of 256 x 128, in a loop that is unrolled by the ring.

    python examples/ladder/15_big_tile.py

Made from rung 13; more than 60 lines differ, as the loop and the store are written anew. A warpgroup has two
*m-fragments* of 64 rows, one multiplied and promoted after the other: two sets of sums and one partial sum,
192 registers. A stage's B now serves 256 rows, so a CTA loads three quarters of the bytes for each
multiply-add. Four such stages leave little room: D goes out in chunks of 64 x 32, by two buffers a warpgroup.

- The ring's four stages are unrolled, so which stage, and where it lies, is known when compiling. Tiles take
  whole rounds of the ring; beyond K, TMA brings zeros.
- Nothing waits between a full stage and its WGMMAs. Whether it is full was asked before the promotion. B's
  scale is fetched a round ahead, one k-block's by each of four lanes, and handed out by a shuffle a k-block
  ahead.
- `hide` passes thread ids and addresses through a shuffle: the compiler cannot know what comes out, so it
  keeps it in a register, and does not compute it again in the loop.

M may be any number, N any multiple of 8, K of 16; A's scales are M-major.

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| 13_scales | 4096x4096x7168 | 203.7 | 1181 TFLOP/s | 59.7% | 1.4e-06 | 168 |
| 13_scales | 3003x3080x1040 | 27.4 | 702 TFLOP/s | 35.4% | 1.8e-06 | 168 |
| 15_big_tile | 4096x4096x7168 | 167.6 | 1435 TFLOP/s | 72.5% | 1.4e-06 | 168 |
| 15_big_tile | 3003x3080x1040 | 40.6 | 474 TFLOP/s | 24.0% | 1.8e-06 | 168 |

## What follows

From 203.7 to 167.6 us, the largest gain since rung 7; the changes above were not timed one by one. The loop
has 705 instructions for four k-blocks of two fragments, 88 for every 64 FFMAs, where rung 13 has 120. What a
k-block waits for serves two fragments. Bytes are three quarters; waves are 4 of twice the work, not 8.

At 3003x3080x1040 it loses, 40.6 us, not 27.4: 3 waves of large tiles are 6 of small ones, not 5; whole
rounds of the ring are 12 k-blocks, not 9. That is 1.6 times the work. The library takes another tile there.

Its kernel for the first shape, `cute-gemm inspect --config 256x128_c1x2_s4_r8_dyn_l2p256_bf16_tma-scales`,
took 162.6 us on another day (docs/results.md). Its loop is as long. Besides, L2 fetches 256 bytes where 128
are asked for, SMs that are free draw the next tile, and it starts before the kernel ahead ends. Its FFMAs had
marks that spare reads of registers (docs/performance.md, 93); those of this file have had them since.

## Break it

Have `hide` return its argument. The result stays right. With `--sass`, see the loop read the thread's id
anew (`S2R`), for a number that never changes. What that costs is for you to measure.
"""

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float8E4M3FN, Float32, Int32, Int64
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, warpgroup

from cute_gemm.testing.rungs import climb, gemm

BLOCK_M, BLOCK_N, BLOCK_K, STAGES = 256, 128, 128, 4
# Two warpgroups multiply; the third one is there for one warp that loads. Without min_blocks_per_mp the
# compiler ignores setmaxregister.
MATH_WARPS, LOAD_REGISTERS, MATH_REGISTERS = 8, 40, 232  # of a thread; each starts with 168
LAUNCH = {"block": (384, 1, 1), "cluster": (2, 1, 1), "min_blocks_per_mp": 1}
# SMs of an H100 SXM or H200 (with fewer, clusters take turns); CTAs of a cluster, side by side along N, with
# the same rows of A; tiles of a band, along M.
SMS, CLUSTER, BAND = 132, 2, 8
CHUNK_N, PER_ROW = 32, BLOCK_N // 32  # columns of D that are stored at once, and how often
STAGE_BYTES = (BLOCK_M + BLOCK_N) * BLOCK_K + 4 * BLOCK_M


def swizzled(rows, columns=BLOCK_K, stages=STAGES, dtype=Float8E4M3FN):
    """The layout (rows, columns, stages) in shared memory, in the order that TMA and WGMMA know."""
    kinds = warpgroup.SmemLayoutAtomKind
    atom = warpgroup.make_smem_layout_atom(kinds.K_SW64 if columns == CHUNK_N else kinds.K_SW128, dtype)
    return cute.tile_to_shape(atom, (rows, columns, stages), (0, 1, 2))


def hide(value):
    """``value``, which differs from lane to lane, in a way that the compiler cannot compute again."""
    return cute.arch.shuffle_sync(value, cute.arch.lane_idx())


def hidden_tensor(storage, layout, dtype):
    """A swizzled tensor of shared memory, of whose address the compiler knows nothing but its alignment."""
    address = cute.arch.shuffle_sync(storage.data_ptr().toint(), 0)
    pointer = cute.make_ptr(dtype, address, cutlass.AddressSpace.smem, assumed_align=1024)
    return cute.make_tensor(cute.recast_ptr(pointer, layout.inner, dtype=dtype), layout.outer)


def tma_copy(op, matrix, rows, columns=BLOCK_K, *more):
    """TMA's copy of (rows, columns) to or from a stage, and the matrix by TMA's coordinates."""
    stage = cute.slice_(swizzled(rows, columns, *more), (None, None, 0))
    return cpasync.make_tiled_tma_atom(op, matrix, stage, (rows, columns))


def along_k(atom, matrix, tile, rows, shared, depth=BLOCK_K):
    """TMA's copy, where it writes, (TMA, stages), and where it reads a tile's k-blocks, (TMA, restK)."""
    blocks = cute.local_tile(matrix, (rows, depth), (tile, None))  # (rows, depth, restK)
    both = cute.group_modes(shared, 0, 2), cute.group_modes(blocks, 0, 2)
    return atom, *cpasync.tma_partition(atom, 0, cute.make_layout(1), *both)


def wgmma(n=BLOCK_N):
    """The WGMMA of 64 x n x 32, both operands in shared memory."""
    k, shared = OperandMajorMode.K, warpgroup.OperandSource.SMEM
    op = warpgroup.MmaF8Op(Float8E4M3FN, Float8E4M3FN, Float32, (64, n, 32), shared, k, k)
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
def promote(acc, partial, scale):
    """Adds ``partial`` to ``acc``, times the scale of each element's row: one FFMA an element."""
    for i in cutlass.range_constexpr(cute.size(acc)):
        acc[i] += partial[i] * scale[i // 2 % 2]


@cute.jit
def store(atom_d, mD, sD, accs, tile_m, tile_n, thread, warp):
    """Writes a warpgroup's 128 rows, chunk by chunk by two buffers; the last stores go on behind it."""
    # Barriers 1 and 2 are the warpgroups' own; 0 is sync_threads.
    half_m, own = warp // 4, {"barrier_id": 1 + warp // 4, "number_of_threads": 128}
    stmatrix = cute.make_copy_atom(cute.nvgpu.warp.StMatrix8x8x16bOp(False, 4), BFloat16)
    mma = wgmma(CHUNK_N)
    r2s = cute.make_tiled_copy_C(stmatrix, mma).get_slice(thread % 128)
    tRS_sD = r2s.partition_D(sD)  # (R2S, R2S_M, R2S_N, buffers)
    rD = cute.make_rmem_tensor(mma.partition_shape_C((64, CHUNK_N)), BFloat16)
    gD = cute.local_tile(mD, (64, CHUNK_N), (None, None))  # (64, chunk, restM, restN)
    both = cute.group_modes(sD, 0, 2), cute.group_modes(gD, 0, 2)
    # (TMA, buffers), (TMA, restM, restN)
    bSG_sD, bSG_gD = cpasync.tma_partition(atom_d, 0, cute.make_layout(1), *both)
    cute.arch.cp_async_bulk_wait_group(0, read=True)  # whose lane issued the stores of the tile before
    cute.arch.barrier(**own)
    for chunk in cutlass.range_constexpr(2 * PER_ROW):
        m, n, buffer = chunk // PER_ROW, chunk % PER_ROW, 2 * half_m + chunk % 2
        for i in cutlass.range_constexpr(cute.size(rD)):
            rD[i] = accs[m][n * cute.size(rD) + i].to(BFloat16)
        cute.copy(r2s, r2s.retile(rD), tRS_sD[None, None, None, buffer])
        cute.arch.fence_proxy("async.shared", space="cta")
        # The barrier also says that the other buffer, which comes next, was read.
        cute.arch.cp_async_bulk_wait_group(0, read=True)
        cute.arch.barrier(**own)
        if warp % 4 == 0:
            to = bSG_gD[None, 4 * tile_m + 2 * half_m + m, PER_ROW * tile_n + n]
            cute.copy(atom_d, bSG_sD[None, buffer], to)
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
        sD: cute.struct.Align[cute.struct.MemRange[BFloat16, 64 * CHUNK_N * 4], 1024]

    @cute.jit
    def __call__(self, mA, mSFA, mB, mSFB, mD, stream):
        """Makes the TMA atoms, and launches a cluster for each two SMs."""
        load, multicast = cpasync.CopyBulkTensorTileG2SOp(), cpasync.CopyBulkTensorTileG2SMulticastOp()
        a, b = tma_copy(multicast, mA, BLOCK_M), tma_copy(load, mB, BLOCK_N)
        scales = cpasync.make_tiled_tma_atom(multicast, mSFA, cute.make_layout((BLOCK_M, 1)), (BLOCK_M, 1))
        d = tma_copy(cpasync.CopyBulkTensorTileS2GOp(), mD, 64, CHUNK_N, 4, BFloat16)
        pairs = cute.ceil_div(mD.shape[0], BLOCK_M), cute.ceil_div(mD.shape[1], CLUSTER * BLOCK_N)
        grid = (CLUSTER, cutlass.min(pairs[0] * pairs[1], SMS // CLUSTER), 1)
        self.kernel(a, scales, b, mSFB, d, pairs).launch(grid=grid, **LAUNCH, stream=stream)

    @cute.kernel
    def kernel(self, a, scales, b, mSFB, d, pairs):
        """Pairs of tiles c, c + C, c + 2 C ... of D for cluster c of C."""
        thread = hide(cute.arch.thread_idx()[0])
        warp = cute.arch.make_warp_uniform(thread // 32)
        storage = cutlass.memory.SmemAllocator().allocate(self.Storage)
        full, empty = storage.barriers.data_ptr(), storage.barriers.data_ptr() + STAGES
        sA = hidden_tensor(storage.sA, swizzled(BLOCK_M), Float8E4M3FN)
        sB = hidden_tensor(storage.sB, swizzled(BLOCK_N), Float8E4M3FN)
        sS = storage.sS.get_tensor(cute.make_layout((BLOCK_M, 1, STAGES), stride=(1, BLOCK_M, BLOCK_M)))
        sD = hidden_tensor(storage.sD, swizzled(64, CHUNK_N, 4, BFloat16), BFloat16)
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
            # Whole rounds of the ring: beyond K, TMA fills k-blocks and their scales with zeros.
            for k in cutlass.range(cute.round_up(k_blocks, STAGES), unroll=1):
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
        """Role of two warpgroups: each multiplies, promotes and stores 2 x 64 rows."""
        cute.arch.setmaxregister_increase(MATH_REGISTERS)
        sA = cute.local_tile(sA, (128, BLOCK_K), (warp // 4, 0, None))  # (128, bK, stages)
        sA = cute.local_tile(sA, (64, BLOCK_K), (None, 0, None))  # (64, bK, m-fragments, stages)
        mma = wgmma()
        tCrA = mma.make_fragment_A(mma.get_slice(0).partition_A(sA))  # (MMA, 1, 4, m-fragments, stages)
        tCrB = mma.make_fragment_B(mma.get_slice(0).partition_B(sB))  # (MMA, 1, 4, stages)
        sums = mma.partition_shape_C((64, BLOCK_N))
        partial, *accs = (cute.make_rmem_tensor(sums, Float32) for _ in range(3))
        # Of the tile, for registers 0 and 1; 8 more for 2 and 3, 64 more in the second fragment.
        row = warp // 4 * 128 + warp % 4 * 16 + thread % 32 // 4
        address = hide(sS.iterator.toint() + 4 * row)
        own = cute.make_ptr(Float32, address, cutlass.AddressSpace.smem, assumed_align=4)
        sS = cute.make_tensor(own, sS.layout)  # from this thread's row on
        released = hide(cute.arch.map_dsmem_ptr(empty, thread % CLUSTER).toint())
        place = hide(thread % STAGES)  # in a round, of the k-block whose scale of B this lane fetches
        k_blocks, phase = mSFB.shape[1], Int32(0)
        ready = cute.arch.mbarrier_test_wait(full, phase)
        for index in cutlass.range(cute.arch.block_idx()[1], pairs[0] * pairs[1], SMS // CLUSTER, unroll=1):
            tile_m, tile_n = tile_of(index, *pairs)
            block_n = cutlass.min(tile_n, mSFB.shape[0] - 1)  # a pair's second tile may lie beyond N
            scales_b = mSFB[block_n, None]  # (k-blocks,)
            held, fetched = (scales_b[cutlass.min(place + i * STAGES, k_blocks - 1)] for i in range(2))
            scale_b = cute.arch.shuffle_sync(held, 0)
            for acc in accs:
                acc.fill(0.0)
            for first in cutlass.range(0, k_blocks, STAGES, unroll=1):
                for stage in cutlass.range_constexpr(STAGES):
                    if not ready:
                        cute.arch.mbarrier_wait(full + stage, phase)
                    scale_a = [[sS[64 * m + 8 * half, 0, stage] for half in range(2)] for m in range(2)]
                    multiply(partial, tCrA[None, None, None, 0, stage], tCrB[None, None, None, stage])
                    scale = [[each * scale_b for each in halves] for halves in scale_a]
                    following = (stage + 1) % STAGES
                    if cutlass.const_expr(following == 0):
                        k = cutlass.min(first + 2 * STAGES + place, k_blocks - 1)
                        held, fetched = fetched, scales_b[k]
                    scale_b = cute.arch.shuffle_sync(held, following)
                    warpgroup.wait_group(0)
                    promote(accs[0], partial, scale[0])
                    multiply(partial, tCrA[None, None, None, 1, stage], tCrB[None, None, None, stage])
                    warpgroup.wait_group(0)
                    if thread % 32 < CLUSTER:  # lane r releases the stage to CTA r
                        barrier = cute.make_ptr(Int64, released + 8 * stage, cutlass.AddressSpace.dsmem)
                        cute.arch.mbarrier_arrive(barrier)
                    # Asked now, so that nothing waits between a stage that is full and its WGMMAs.
                    phase ^= 1 if following == 0 else 0
                    ready = cute.arch.mbarrier_test_wait(full + following, phase)
                    promote(accs[1], partial, scale[1])
            store(*d, sD, accs, tile_m, tile_n, thread, warp)
        cute.arch.cp_async_bulk_wait_group(0, read=True)


SHAPES = (4096, 4096, 7168), (3003, 3080, 1040)  # the second fits no tile
RUNG = gemm(__file__, Gemm(), *SHAPES, m_major_scales=True)

if __name__ == "__main__":
    climb(RUNG)
