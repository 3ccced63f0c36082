"""The swizzle: why rows of 128 bytes are not stored as they are.

    python examples/ladder/03_swizzle.py

Shared memory has 32 *banks*, each four bytes wide: byte b is in bank b / 4 % 32. In each clock a bank
delivers one of its words. Threads that want different words of the same bank have to take turns: a *bank
conflict*.

The tensor core reads its operands in pieces of 8 rows x 16 bytes, *core matrices*. Let the rows of a tile be
128 bytes long, which is 128 numbers of FP8, and let them be stored one behind the other. Then the second
row's first 16 bytes are exactly 128 bytes behind the first row's: in the same four banks, like those of all
eight rows. Eight turns.

The remedy is to store the eight 16-byte units of each row in another order: unit u of row r goes to place `u
^ (r % 8)` of that row. This is the *128-byte swizzle*. TMA applies it while it copies, the tensor core undoes
it while it reads.

| row | place 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |
|--:|--:|--:|--:|--:|--:|--:|--:|--:|
| 0 | **0** | 1 | 2 | 3 | 4 | 5 | 6 | 7 |
| 1 | 1 | **0** | 3 | 2 | 5 | 4 | 7 | 6 |
| 2 | 2 | 3 | **0** | 1 | 6 | 7 | 4 | 5 |
| 3 | 3 | 2 | 1 | **0** | 7 | 6 | 5 | 4 |
| 4 | 4 | 5 | 6 | 7 | **0** | 1 | 2 | 3 |
| 5 | 5 | 4 | 7 | 6 | 1 | **0** | 3 | 2 |
| 6 | 6 | 7 | 4 | 5 | 2 | 3 | **0** | 1 |
| 7 | 7 | 6 | 5 | 4 | 3 | 2 | 1 | **0** |

![Where the units of eight rows are, as they are and swizzled](../../docs/pictures/swizzle.svg)

Units of the same number, such as those in bold, are in eight different places now, so in all 32 banks: one
turn. A row is still in one piece, so writing rows has no conflicts either.

The kernel reads a tile as the tensor core does, by plain loads of 16 bytes: at each step the 32 threads of a
warp read the same unit of 32 rows in a row. It does so for all units and for all 128 shifts of the rows, so
that this takes far longer than the load of the tile. A checksum that depends on the order proves that each
unit was where it was looked for. The same Python is traced twice, with the swizzle and without.

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| 03_swizzle | 135168x128 | 72.4 | 30602 GB/s | 91.5% | 0 | 32 |
| 03_swizzle, plain | 135168x128 | 534.1 | 4147 GB/s | 12.4% | 0 | 31 |

## What follows

The arithmetic of banks says eight to one; 534.1 and 72.4 us are 7.4 to one. Nothing else tells the two
kernels apart: the same bytes, the same number of loads. The share of the limit is of 128 bytes a clock on
each multiprocessor, which is what 32 banks deliver. With eight turns a load there would be 12.5 % of it at
best, and the plain kernel has 12.4: it does nothing but wait for banks. With the swizzle it is 91.5 %. The
rest is what eight times slower loads had hidden: the tile's own way from memory, and the checksum's
arithmetic.

This limit matters later on. A WGMMA of 64 x 128 x 32, the instruction of the next rung, takes 64 clocks at
the tensor core's full rate, and reads 64 x 32 bytes of A and 128 x 32 of B: 96 of the 128 bytes that a clock
has. So there is no room for conflicts. WGMMA knows four orders: no swizzle, where each core matrix is a piece
of 128 bytes, and swizzles of 32, 64 and 128 bytes. The last one has the longest rows, so TMA fetches whole
lines of 128 bytes.

## Break it

Look for the units in the wrong places: `unit ^ row % 4`. The check fails, as a checksum is wrong as soon as
one unit is. By the arithmetic of banks it takes twice as long, too: of eight rows two each want the same
place. But do not look for errors of this kind by their time. Who mistakes an order reads wrong numbers,
whichever banks they are in, and the tensor core gives no sign of it.
"""

import cutlass
import cutlass.cute as cute
import torch
from cutlass import Float8E4M3FN, Int32, const_expr
from cutlass.cute.nvgpu import cpasync, warpgroup
from cutlass.memory import SmemAllocator

from cute_gemm.testing.rungs import climb, exact, matrix, shared_memory_limit_us

ROWS, COLUMNS = 128, 128  # of a tile, of a byte each
THREADS = 128  # one a row
UNITS = 8  # of 16 bytes, in a row


class Checksums:
    """D[i] of A[i], A[i + 1], and so on around the tile that row i is in: a checksum of all of its units."""

    def __init__(self, swizzled: bool):
        self.swizzled = swizzled

    def layout(self):
        """The tile in shared memory, as TMA writes it."""
        if not self.swizzled:
            return cute.make_layout((ROWS, COLUMNS), stride=(COLUMNS, 1))
        atom = warpgroup.make_smem_layout_atom(warpgroup.SmemLayoutAtomKind.K_SW128, Float8E4M3FN)
        return cute.tile_to_shape(atom, (ROWS, COLUMNS), (0, 1))

    @cute.jit
    def __call__(self, mA, mD, stream):
        """Makes the TMA atom, and launches a block a tile."""
        load = cpasync.CopyBulkTensorTileG2SOp()
        atom_a, mA = cpasync.make_tiled_tma_atom(load, mA, self.layout(), (ROWS, COLUMNS))

        @cute.struct
        class Storage:
            full: cutlass.Int64
            sA: cute.struct.Align[cute.struct.MemRange[Float8E4M3FN, ROWS * COLUMNS], 1024]

        self.Storage = Storage
        grid = (cute.ceil_div(mA.shape[0], ROWS), 1, 1)
        self.kernel(atom_a, mA, mD).launch(grid=grid, block=(THREADS, 1, 1), stream=stream)

    @cute.kernel
    def kernel(self, atom_a: cute.CopyAtom, mA, mD):
        """One tile."""
        thread, tile = cute.arch.thread_idx()[0], cute.arch.block_idx()[0]
        warp = cute.arch.make_warp_uniform(thread // 32)
        storage = SmemAllocator().allocate(self.Storage)
        full = storage.full.ptr
        if const_expr(self.swizzled):
            sA = storage.sA.get_tensor(self.layout().outer, swizzle=self.layout().inner)
        else:
            sA = storage.sA.get_tensor(self.layout())
        if warp == 0:
            with cute.arch.elect_one():
                cute.arch.mbarrier_init(full, 1)
        cute.arch.mbarrier_init_fence()
        cute.arch.sync_threads()

        gA = cute.local_tile(mA, (ROWS, COLUMNS), (tile, 0))
        tAsA, tAgA = cpasync.tma_partition(
            atom_a, 0, cute.make_layout(1), cute.group_modes(sA, 0, 2), cute.group_modes(gA, 0, 2)
        )
        if warp == 0:
            with cute.arch.elect_one():
                cute.arch.mbarrier_arrive_and_expect_tx(full, ROWS * COLUMNS)
            cute.copy(atom_a, tAgA, tAsA, tma_bar_ptr=full)
        cute.arch.mbarrier_wait(full, 0)

        # The same bytes, without what the DSL knows of their order: (words of a unit, places, rows).
        words = cute.recast_ptr(storage.sA.data_ptr(), dtype=Int32)
        units = cute.make_tensor(words, cute.make_layout((4, UNITS, ROWS), stride=(1, 4, 4 * UNITS)))
        sums = cute.make_rmem_tensor(4, Int32)
        sums.fill(0)
        for shift in cutlass.range(ROWS, unroll=2):
            row = (thread + shift) % ROWS
            for unit in cutlass.range_constexpr(UNITS):
                place = unit ^ row % UNITS if const_expr(self.swizzled) else unit
                sums.store(sums.load() * 31 + units[None, place, row].load())
        for word in cutlass.range_constexpr(4):
            mD[tile * ROWS + thread, word] = sums[word]


def checksums(a: torch.Tensor) -> torch.Tensor:
    """What the kernel computes."""
    units = a.view(torch.int32).view(-1, ROWS, UNITS, 4)
    sums = torch.zeros_like(units[:, :, 0])
    for shift in range(ROWS):
        rows = units.roll(-shift, 1)
        for unit in range(UNITS):
            sums = 31 * sums + rows[:, :, unit]
    return sums.view(-1, 4)


def rung(swizzled: bool, **more):
    """Of one of the two kernels: enough tiles for eight blocks on each of 132 multiprocessors."""
    m = cute.sym_int32()
    return exact(
        __file__,
        Checksums(swizzled),
        (matrix(Float8E4M3FN, m, COLUMNS), matrix(Int32, m, 4)),
        lambda m, n: (torch.randint(256, (m, n), dtype=torch.uint8).view(torch.float8_e4m3fn),),
        checksums,
        (132 * 8 * ROWS, COLUMNS),
        # Bytes that threads read from shared memory: each thread the whole tile.
        bytes_moved=lambda m, n: m * ROWS * n,
        limit_us=shared_memory_limit_us,
        **more,
    )


RUNG = rung(swizzled=True, beside=(rung(swizzled=False, variant="plain"),))

if __name__ == "__main__":
    climb(RUNG)
