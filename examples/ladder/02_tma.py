"""TMA and an mbarrier: bytes and phases.

    python examples/ladder/02_tma.py

A Hopper multiprocessor has a unit that copies: the *tensor memory accelerator*, TMA. One thread asks it for a
tile of a matrix, by the tile's coordinates. TMA fetches the tile into the block's *shared memory*, 228 KB
next to the cores, while all threads do other things. What lies outside of the matrix comes as zeros; on the
way back it is not written.

**Atom.** The CPU describes the matrix to TMA once per launch: address, extents, strides, and the tile. The
description and the kind of copy are an *atom*; the matrix that is handed on with it has coordinates in place
of addresses.

**Bytes.** How does a thread learn that the tile is there? By an *mbarrier*, a 64-bit word in shared memory,
which counts two things down to zero: *arrivals* of threads (here one), and *bytes* on their way. The thread
that asks for the tile arrives and, with the same instruction, announces how many bytes will come; TMA takes
each off that has landed.

**Phases.** When both are at zero the barrier *completes its phase* and starts the next by itself: it wants
one arrival again. Phases are numbered 0, 1, 0, 1, and so on. `mbarrier_wait(full, 0)` waits for the end of a
phase 0. Who uses a barrier in a loop therefore waits for 0, then for 1, then for 0 again.

| i | announced | waits for | who may touch the tile |
|--:|---|--:|---|
| 0 | 8192 bytes | phase 0 | TMA writes, then TMA reads it for the store |
| 1 | 8192 bytes, once the store has read | phase 1 | the same |
| 2 | 8192 bytes, once the store has read | phase 0 | the same |

Here a block is a single warp. It copies eight tiles of 64 x 128 bytes, one after the other, through one place
in shared memory. The place has to be empty before it is filled: the store is asynchronous too, and has no
mbarrier. Its copies are *committed* as groups, and `cp_async_bulk_wait_group(0, read=True)` waits until none
is left that still has to read.

**Notation.** CuTe's, in all rungs from here on:

| written | means |
|---|---|
| layout `(64, 128)`, stride `(128, 1)` | extents of *modes*, its dimensions; how far apart neighbours are |
| `None` in a coordinate | all of that mode: `x[None, 3]` is a column |
| `local_tile(m, (64, 128), (row, None))` | tiles of 64 x 128: those with that number down, all across |
| `group_modes(t, 0, 2)` | modes 0 and 1 as one: what a copy moves at once |
| `tma_partition(atom, 0, one, s, g)` | both sides as TMA copies them; 0 and `one`: this block is alone |
| `mA`, `gA`, `sA`, `rA` | A: whole in memory, a block's part of it, in shared memory, in registers |
| `tAsA`, `tAgA` | `sA` and `gA` as copy A partitions them |
| `elect_one()` | one lane of the warp does it; `cute.copy` by TMA chooses one by itself |

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| 02_tma | 16384x16384 | 158.4 | 3390 GB/s | 70.6% | 0 | 7 |
| 02_tma | 1000x4112 | 9.5 | 862 GB/s | 18.0% | 0 | 7 |

## What follows

No thread has touched a number: there is no load and no store among the instructions but TMA's. The copy is
not faster than plain loads and stores, 3390 GB/s beside 3649 GB/s in rung 1. What TMA spares is threads: 32
of seven registers do it.

A warp has one tile under way and waits for it. That memory is busy in spite of that is owed to the many
blocks that a multiprocessor holds at once. The second shape shows a block alone: it makes 80 blocks, less
than one a multiprocessor, and most of them copy eight tiles one after the other. Nothing hides these waits,
and it is at 18.0 % of the limit. A matrix product needs most of the shared memory for its tiles, so it will
not have many blocks either. It will need several tiles under way in one block: that is the ring of rung 7.

The number of bytes is always that of the whole tile, also at the edge of the matrix: the zeros count.

## Break it

Wait for phase 0 each time: `mbarrier_wait(full, 0)`. The first wait is right. At the second, the last phase
that ended was a phase 0, so the wait is over at once, and the store takes what is in shared memory: the tile
before, or some of the new one. The check finds rows that are wrong. Or announce 16 bytes more than will come:
the phase never ends, and the kernel hangs. A wrong phase gives wrong numbers, a wrong count waits for ever.
"""

import cutlass
import cutlass.cute as cute
import torch
from cutlass.cute.nvgpu import cpasync
from cutlass.memory import SmemAllocator

from cute_gemm.testing.rungs import climb, exact, matrix

ROWS, COLUMNS = 64, 128  # of a tile
TILES = 8  # of a block
THREADS = 32  # one warp
TILE_BYTES = ROWS * COLUMNS


class Copy:
    """D = A, of matrices of e4m3, tile by tile."""

    @cute.jit
    def __call__(self, mA, mD, stream):
        """Makes the TMA atoms, and launches a block for eight tiles side by side."""
        tile = cute.make_layout((ROWS, COLUMNS), stride=(COLUMNS, 1))
        load, store = cpasync.CopyBulkTensorTileG2SOp(), cpasync.CopyBulkTensorTileS2GOp()
        atom_a, mA = cpasync.make_tiled_tma_atom(load, mA, tile, (ROWS, COLUMNS))
        atom_d, mD = cpasync.make_tiled_tma_atom(store, mD, tile, (ROWS, COLUMNS))

        @cute.struct
        class Storage:
            full: cutlass.Int64
            tile: cute.struct.Align[cute.struct.MemRange[cutlass.Float8E4M3FN, ROWS * COLUMNS], 128]

        self.Storage = Storage
        grid = (cute.ceil_div(mA.shape[0], ROWS), cute.ceil_div(mA.shape[1], COLUMNS * TILES), 1)
        self.kernel(atom_a, mA, atom_d, mD).launch(grid=grid, block=(THREADS, 1, 1), stream=stream)

    @cute.kernel
    def kernel(self, atom_a: cute.CopyAtom, mA, atom_d: cute.CopyAtom, mD):
        """Eight tiles, one after the other."""
        row, strip, _ = cute.arch.block_idx()
        storage = SmemAllocator().allocate(self.Storage)
        full = storage.full.ptr
        tile = storage.tile.get_tensor(cute.make_layout((ROWS, COLUMNS), stride=(COLUMNS, 1)))
        with cute.arch.elect_one():
            cute.arch.mbarrier_init(full, 1)
        # TMA must see the barrier, and the warp's other threads too.
        cute.arch.mbarrier_init_fence()
        cute.arch.sync_threads()

        gA = cute.local_tile(mA, (ROWS, COLUMNS), (row, None))  # (ROWS, COLUMNS, tiles)
        gD = cute.local_tile(mD, (ROWS, COLUMNS), (row, None))
        one = cute.make_layout(1)
        # (TMA,), (TMA, tiles)
        tAsA, tAgA = cpasync.tma_partition(
            atom_a, 0, one, cute.group_modes(tile, 0, 2), cute.group_modes(gA, 0, 2)
        )
        tDsD, tDgD = cpasync.tma_partition(
            atom_d, 0, one, cute.group_modes(tile, 0, 2), cute.group_modes(gD, 0, 2)
        )
        first = strip * TILES
        for i in cutlass.range(cutlass.min(TILES, cute.size(gA, mode=[2]) - first), unroll=1):
            with cute.arch.elect_one():
                cute.arch.mbarrier_arrive_and_expect_tx(full, TILE_BYTES)
            cute.copy(atom_a, tAgA[None, first + i], tAsA, tma_bar_ptr=full)
            cute.arch.mbarrier_wait(full, i % 2)
            cute.copy(atom_d, tDsD, tDgD[None, first + i])
            cute.arch.cp_async_bulk_commit_group()
            cute.arch.cp_async_bulk_wait_group(0, read=True)


m, n = cute.sym_int32(), cute.sym_int32()
RUNG = exact(
    __file__,
    Copy(),
    (matrix(cutlass.Float8E4M3FN, m, n), matrix(cutlass.Float8E4M3FN, m, n)),
    lambda m, n: (torch.randn(m, n).to(torch.float8_e4m3fn),),
    lambda a: a,
    (16384, 16384),
    (1000, 4112),
    bytes_moved=lambda m, n: 2 * m * n,
)

if __name__ == "__main__":
    climb(RUNG)
