"""Split-K: a cluster shares out the k-blocks of one tile.

    python examples/ladder/14_split_k.py

With 64 rows, as when 64 users get their next token, a product with 2112 columns has 33 tiles of 64 x 64. One
CTA each would leave 99 of 132 SMs idle. The time is that of reading B, 15 MB, and a quarter of the SMs
cannot ask for it as fast as memory could give it. So four CTAs, a cluster, take a quarter of the k-blocks
each: 132 CTAs.

This rung is made from rung 8, with tiles half as wide, and not from the one before: there is one tile for
each cluster and nothing to share, so no persistence, no multicast, and plain stores. Half of what is new is
the sum of the four partial sums:

1. CTA r adds up columns 16 r to 16 r + 15 of the tile. Each thread sends each CTA the eight registers that
   belong there, by two stores of 16 bytes into that CTA's shared memory (*distributed shared memory*); to
   itself too, which needs no exception.
2. Such a store is asynchronous, and counts its bytes at an mbarrier of the CTA that it goes to, as TMA does.
   So a CTA announces 16 KB, and waits for one phase.
3. Thread t has sent to threads t, so each finds the elements of its own rows and columns, and adds four
   numbers up, *in the order of the CTAs*. Floating-point sums depend on the order; by this one, the result
   does not depend on who was faster.

All CTAs must have initialised their barriers before anybody sends: they arrive at the cluster's barrier at
the start, and wait for it only here, when everyone has long come past. Nobody ends too early either: who has
received everything is no longer sent anything.

M must be a multiple of 64, N of 64.

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| 14_split_k | 64x2112x7168 | 10.1 | 191 TFLOP/s | 32.6% | 1.4e-06 | 128 |

## What follows

Compare bytes per second, and not operations: the limit is memory, and 10.1 us are 32.6 % of it. To read A and
B and to write D would take 3.3 us. The rest does not depend on how much is read: a launch, the first answer
from DRAM, the exchange at the end. Rung 4 took 2.9 us for a launch and one tile with one k-block. A CTA has
14 k-blocks here, and for each it waits, multiplies, waits for the WGMMAs and promotes, with one warpgroup
and, on most SMs, no other CTA to fill the gaps. How the time is divided was not measured.

Two waits can be seen in the code. The scales still come by plain loads in each k-block, and one partial
accumulator means that WGMMAs wait for the promotion. The library's kernel for this shape has two, and a warp
that asks L2 for scales ahead.

## Break it

Remove `cute.arch.cluster_wait()`. A CTA that starts late, because its SM was still busy, is sent sums before
its barrier is initialised; the initialisation then wipes out the bytes that were counted. It waits for them
for ever. When all start at once, as on an idle GPU, nothing may happen at all.

Then sum in the order in which they arrive, by atomic additions in shared memory. All is right within the
limits, and twenty calls give several results.
"""

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float8E4M3FN, Float32, Int32, Int64
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, warpgroup

from cute_gemm.testing.rungs import climb, gemm

BLOCK_M, BLOCK_N, BLOCK_K, STAGES = 64, 64, 128, 4
SPLITS, OWN_N = 4, BLOCK_N // 4  # CTAs of a cluster, and the columns that each of them sums up
# One warpgroup multiplies; the other one is there for one warp that loads. Two CTAs share an SM and its
# registers. Without min_blocks_per_mp the compiler ignores setmaxregister; without a carve-out of L1 for
# shared memory, here all that can be, the DSL asks a driver for one, which may not be there.
MATH_WARPS, LOAD_REGISTERS, MATH_REGISTERS = 4, 40, 216  # of a thread; each starts with 128
LAUNCH = {"block": (256, 1, 1), "min_blocks_per_mp": 2, "preferred_smem_carveout": 100}
STAGE_BYTES = (BLOCK_M + BLOCK_N) * BLOCK_K
SUMS = SPLITS * BLOCK_M * OWN_N  # partial sums that a CTA is sent, its own among them


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


def wgmma(n=BLOCK_N):
    """The WGMMA of 64 x n x 32, both operands in shared memory."""
    k, shared = OperandMajorMode.K, warpgroup.OperandSource.SMEM
    op = warpgroup.MmaF8Op(Float8E4M3FN, Float8E4M3FN, Float32, (64, n, 32), shared, k, k)
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
def add_up(acc, sums, summed, rank, thread):
    """Sends each CTA its columns of ``acc``, and returns what those of this CTA add up to."""
    if thread == 0:
        cute.arch.mbarrier_arrive_and_expect_tx(summed, 4 * SUMS)
    cute.arch.cluster_wait()  # all have initialised their barriers: nothing may be sent before
    words, fours = cute.recast_tensor(acc, Int32), OWN_N // 8  # registers of eight columns, of one CTA
    for cta in cutlass.range_constexpr(SPLITS):
        for i in cutlass.range_constexpr(fours):
            four = tuple(words[4 * (fours * cta + i) + j] for j in range(4))
            place = sums[None, thread, i, rank].iterator.align(16)
            cute.arch.store_async_dsmem(place, four, summed, cta)
    cute.arch.mbarrier_wait(summed, 0)
    total = cute.make_rmem_tensor((4, fours), Float32)
    total.fill(0.0)
    for cta in cutlass.range_constexpr(SPLITS):  # in this order, whoever was first: the same bits each time
        total.store(total.load() + sums[None, thread, None, cta].load())
    return total


class Gemm:
    """D = A @ B.T of e4m3 with scales, a tile of D a cluster."""

    @cute.struct
    class Storage:
        """Shared memory."""

        barriers: cute.struct.MemRange[Int64, 2 * STAGES]
        summed: Int64
        sums: cute.struct.Align[cute.struct.MemRange[Float32, SUMS], 128]
        sA: cute.struct.Align[cute.struct.MemRange[Float8E4M3FN, STAGES * BLOCK_M * BLOCK_K], 1024]
        sB: cute.struct.Align[cute.struct.MemRange[Float8E4M3FN, STAGES * BLOCK_N * BLOCK_K], 1024]

    @cute.jit
    def __call__(self, mA, mSFA, mB, mSFB, mD, stream):
        """Makes the TMA atoms, and launches a cluster a tile."""
        load = cpasync.CopyBulkTensorTileG2SOp()
        a, b = tma_copy(load, mA, BLOCK_M), tma_copy(load, mB, BLOCK_N)
        grid = (cute.ceil_div(mD.shape[0], BLOCK_M), cute.ceil_div(mD.shape[1], BLOCK_N), SPLITS)
        self.kernel(a, mSFA, b, mSFB, mD).launch(grid=grid, **LAUNCH, cluster=(1, 1, SPLITS), stream=stream)

    @cute.kernel
    def kernel(self, a, mSFA, b, mSFB, mD):
        """A part of the k-blocks of one tile of D, and the sums of OWN_N of its columns."""
        thread, warp = cute.arch.thread_idx()[0], cute.arch.make_warp_uniform(cute.arch.warp_idx())
        storage = cutlass.memory.SmemAllocator().allocate(self.Storage)
        full, empty = storage.barriers.data_ptr(), storage.barriers.data_ptr() + STAGES
        summed = storage.summed.ptr
        sums = storage.sums.get_tensor(cute.make_layout((4, 128, OWN_N // 8, SPLITS)))
        sA = storage.sA.get_tensor(swizzled(BLOCK_M).outer, swizzle=swizzled(BLOCK_M).inner)
        sB = storage.sB.get_tensor(swizzled(BLOCK_N).outer, swizzle=swizzled(BLOCK_N).inner)
        if warp == 0:
            with cute.arch.elect_one():
                cute.arch.mbarrier_init(summed, 1)
                for stage in cutlass.range_constexpr(STAGES):
                    cute.arch.mbarrier_init(full + stage, 1)
                    cute.arch.mbarrier_init(empty + stage, MATH_WARPS)
        cute.arch.mbarrier_init_fence()
        cute.arch.cluster_arrive_relaxed()
        cute.arch.sync_threads()
        rank, k_blocks = cute.arch.block_idx_in_cluster(), mSFB.shape[1]
        part = rank * k_blocks // SPLITS, (rank + 1) * k_blocks // SPLITS

        if warp < MATH_WARPS:
            acc = self.multiply_all(sA, mSFA, sB, mSFB, part, full, empty, thread, warp)
            total = add_up(acc, sums, summed, rank, thread)
            tile_m, tile_n, _ = cute.arch.block_idx()
            gD = cute.local_tile(mD, (BLOCK_M, OWN_N), (tile_m, SPLITS * tile_n + rank))
            tCgD = wgmma(OWN_N).get_slice(thread).partition_C(gD)
            for i in cutlass.range_constexpr(cute.size(total)):
                tCgD[i] = total[i].to(BFloat16)
        else:
            cute.arch.setmaxregister_decrease(LOAD_REGISTERS)
            if warp == MATH_WARPS:
                self.load_all(a, sA, b, sB, part, full, empty)

    @cute.jit
    def load_all(self, a, sA, b, sB, part, full, empty):
        """Role of one warp: keeps the ring full."""
        tile_m, tile_n, _ = cute.arch.block_idx()
        loads = along_k(*a, tile_m, BLOCK_M, sA), along_k(*b, tile_n, BLOCK_N, sB)
        for n in cutlass.range(part[1] - part[0], unroll=1):
            k, stage = part[0] + n, n % STAGES
            cute.arch.mbarrier_wait(empty + stage, n // STAGES % 2 ^ 1)
            with cute.arch.elect_one():
                cute.arch.mbarrier_arrive_and_expect_tx(full + stage, STAGE_BYTES)
            for atom, shared, blocks in loads:
                cute.copy(atom, blocks[None, k], shared[None, stage], tma_bar_ptr=full + stage)

    @cute.jit
    def multiply_all(self, sA, mSFA, sB, mSFB, part, full, empty, thread, warp):
        """Role of the first warpgroup: multiplies and promotes; returns what its k-blocks add up to."""
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
        for n in cutlass.range(part[1] - part[0], unroll=1):
            k, stage = part[0] + n, n % STAGES
            cute.arch.mbarrier_wait(full + stage, n // STAGES % 2)
            multiply(partial, tCrA[None, None, None, stage], tCrB[None, None, None, stage])
            scale = [mSFA[row + 8 * half, k] * mSFB[tile_n // 2, k] for half in range(2)]
            warpgroup.wait_group(0)
            with cute.arch.elect_one():
                cute.arch.mbarrier_arrive(empty + stage)
            for i in cutlass.range_constexpr(cute.size(acc)):  # the promotion
                acc[i] += partial[i] * scale[i // 2 % 2]
        return acc


RUNG = gemm(__file__, Gemm(), (64, 2112, 7168))

if __name__ == "__main__":
    climb(RUNG)
