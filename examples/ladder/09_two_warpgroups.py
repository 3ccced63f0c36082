"""Two math warpgroups: one promotes while the other multiplies.

    python examples/ladder/09_two_warpgroups.py

The two CTAs that shared an SM become one, whose tile is 128 x 128: each of two math warpgroups has 64 rows
of A, and both have the same B. Hardly a line is new. `empty` takes eight arrivals, one of each math warp; a
warpgroup takes its half of A's stage; and one warp loads for both.

Two things change for the machine.

- *Bytes.* For 128 x 128 x 128 multiply-adds a CTA loads 128 x 128 of A and of B, 32 KB. Two CTAs of 64 x 128
  load twice 24 KB for them.
- *Overlap.* The tensor cores take WGMMAs of one warpgroup after those of the other. When the first one's
  have retired, it promotes, on the CUDA cores, while the second one's run. Nobody arranges this: both start
  together, but as there is one set of tensor cores, one finishes first, and from then on they take turns.

Of 384 threads with 168 registers each, the third warpgroup gives its own away, down to 40, and the others go
up to 232: 128 x 40 + 256 x 232 is 384 x 168.

M and N must be multiples of 128.

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| 08_warp_specialization | 4096x4096x7168 | 272.9 | 881 TFLOP/s | 44.5% | 1.4e-06 | 128 |
| 09_two_warpgroups | 4096x4096x7168 | 231.1 | 1041 TFLOP/s | 52.6% | 1.4e-06 | 168 |

## What follows

From 272.9 to 231.1 us. Two things have changed at once, and were not timed one by one. A third fewer bytes
are loaded, 1.9 GB, and at 8 TB/s, slower than in the rungs before: so these bytes are not what it waits for
most. And two warpgroups take turns: per k-block the tensor cores have 2 x 256 cycles of work; a warpgroup has
its 256, then a promotion, and after that it waits for its turn. As long as the promotion takes less than the
other one's WGMMAs, the tensor cores need not wait for it.

It is 52.6 % of the limit. What the tensor cores surely wait for is a tile's beginning and end. At the
beginning the ring is empty: four k-blocks must come from far away. At the end each thread writes its 64 sums
to D, four bytes at a time: of a line of 128 bytes a quad of lanes has 16 bytes. And while a CTA starts or
ends, no other one is there that would multiply: a tile takes all of an SM.

The next rung has TMA write D; the one after that begins the next tile while this one is written.

## Break it

Keep `MATH_WARPS` at 8 where warps are sent to their roles, but initialise `empty` with 4. A stage is then
given back by the first four warps that are done, most often those of the faster warpgroup, while the other
one still reads it. This is no small race: the warpgroups take turns, so one *is* behind. And eight arrivals
are two phases now, while the warp that loads counts one: when it looks late, it waits for a phase that
nobody brings about. Wrong, or a hang.

Then set `MATH_REGISTERS` to 240. 256 x 240 + 128 x 40 is more than the CTA has. The last warps' increase
waits for registers that nobody will give back: a hang.
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
        """Role of two warpgroups: each multiplies, promotes and stores 64 rows."""
        cute.arch.setmaxregister_increase(MATH_REGISTERS)
        tile_m, tile_n, _ = cute.arch.block_idx()
        sA = cute.local_tile(sA, (64, BLOCK_K, STAGES), (warp // 4, 0, 0))  # (64, bK, stages)
        mma = wgmma()
        thr_mma = mma.get_slice(thread % 128)
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

        gD = cute.local_tile(mD, (64, BLOCK_N), (2 * tile_m + warp // 4, tile_n))
        tCgD = thr_mma.partition_C(gD)
        for i in cutlass.range_constexpr(cute.size(acc)):
            tCgD[i] = acc[i].to(BFloat16)


RUNG = gemm(__file__, Gemm())

if __name__ == "__main__":
    climb(RUNG)
