"""Your scheduler: the largest group first.

    python examples/yours/02_scheduler.py

A grouped product multiplies the rows of many groups, each by a matrix of its own: the tokens of experts. How
many rows a group has is known to the GPU alone. The library's scheduler takes group after group. The one
below sorts them by size first. Tiles with few rows take less time, as a math warpgroup without rows does not
multiply; kept for the end, they make the last wave short. And tiles of a large group share its matrix in L2.

A scheduler is a frozen dataclass of integers. All threads call `prepare` once, with a table in shared memory;
then roles ask for tiles by number. `LargestFirst` is the library's scheduler for offsets, but what it takes
for a group is a place in the order of sizes. `rows_of` and `at` translate.

Roles that disagree about the next tile wait for each other for ever, and a tile that two CTAs store is a
race. So a scheduler is walked before it runs. The same code, compiled for the CPU, says what each CTA is
handed, and `assert_each_tile_once` looks for tiles that are missing, come twice, or have the wrong rows or
matrix.

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| the library's, group by group | 10899x4096x2048 | 182.6 | 1001 TFLOP/s | 50.6% | 1.8e-06 | 168 |
| yours, the largest first | 10899x4096x2048 | 186.8 | 979 TFLOP/s | 49.5% | 1.8e-06 | 168 |

## What follows

It does not pay here: 186.8 us, where the library's order takes 182.6, 2 % less. There are 3200 tiles, 24 for
each of 132 SMs. SMs that are free draw the next tile in both kernels, so at the end an SM waits for about one
tile's time at most: no order could gain more than 4 %. Against it stand two passes over the groups, in every
CTA, before its first tile. How much they take, and how much the other order costs in L2, was not measured.

With fewer tiles, or where tiles are not drawn, an order has more to win: take your own sizes, and measure. No
sum depends on the order of tiles: both kernels give the same bits.

## Break it

Have `at` return the tile as it is. Each row is then multiplied by the matrix of another group. Nothing hangs
on a GPU, and the result is wrong; the walk finds it in a second, without one: "not each row once".
"""

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import ClassVar

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import OFFSETS
from cute_gemm.runtime import build, launch
from cute_gemm.schedulers import warp
from cute_gemm.schedulers.m_grouped_offsets import MGroupedOffsetsScheduler
from cute_gemm.testing import (
    Extents,
    Rows,
    assert_each_tile_once,
    assert_grouped_correct,
    make_offsets_inputs,
    walk,
)
from cute_gemm.testing.programs import Trial, Tutorial, present

# What the library takes for this problem.
CONFIG = KernelConfig(128, 128, stages=5, cluster_n=2, layout=OFFSETS, dynamic_persistence=True)
# As routers spread tokens: few experts have most of them, some have none. They lie in no order.
SIZES = [2730 // (1 + i * 7 % 32) if i * 7 % 32 < 30 else 0 for i in range(32)]
SHAPE = sum(SIZES), 4096, 2048


@dataclass(frozen=True, kw_only=True)
class LargestFirst(MGroupedOffsetsScheduler):
    """Tiles of groups by offsets, from the largest group to the smallest."""

    # The library's table in front, the groups in their order behind it.
    table_entries: ClassVar[int] = 2 * MGroupedOffsetsScheduler.table_entries

    def group_at(self, place):
        return MGroupedOffsetsScheduler.table_entries + place

    @cute.jit
    def prepare(self, table, tidx):
        # Sizes, where the library's table will be. The first warp works: its lanes share the groups out.
        if tidx < warp.SIZE:
            for group in cutlass.range(tidx, self.groups, warp.SIZE, unroll=1):
                _, first, end = MGroupedOffsetsScheduler.rows_of(self, group)
                table[group] = cutlass.max(end - first, 0)
        cute.arch.sync_threads()
        # A group's place is the number of groups ahead of it.
        if tidx < warp.SIZE:
            for group in cutlass.range(tidx, self.groups, warp.SIZE, unroll=1):
                size, place = table[group], Int32(0)
                for other in cutlass.range(self.groups, unroll=4):
                    is_ahead = table[other] > size or (table[other] == size and other < group)
                    place += Int32(is_ahead)
                table[self.group_at(place)] = group
        cute.arch.sync_threads()
        return MGroupedOffsetsScheduler.prepare(replace(self, table=table), table, tidx)

    @cute.jit
    def rows_of(self, place):
        return MGroupedOffsetsScheduler.rows_of(self, self.table[self.group_at(place)])

    @cute.jit
    def at(self, index):
        tile = MGroupedOffsetsScheduler.at(self, index)
        return replace(tile, group=self.table[self.group_at(tile.group)])


def make(device):
    """Operands, rows of groups one behind the other, and where each group ends."""
    return make_offsets_inputs(SIZES, *SHAPE[1:], device=device)


def call(program, inputs, out):
    """One launch."""
    launch(program, inputs.lhs, inputs.rhs, inputs.index, out=out)


def judge(inputs, out):
    """Each group's product, tile by tile."""
    return assert_grouped_correct(out, inputs.lhs, inputs.rhs, inputs.row_groups)


TUTORIAL = Tutorial(
    "02_scheduler",
    SHAPE,
    (
        Trial("the library's, group by group", build(CONFIG), call, judge),
        Trial("yours, the largest first", build(CONFIG, scheduler=LargestFirst), call, judge),
    ),
    make,
    groups=len(SIZES),
)


def check(sizes, num_sms=132, cluster_mnk=(1, CONFIG.cluster_n, 1)):
    """A schedule, after each of its tiles was found once."""
    ends = list(accumulate(sizes))
    extents = Extents(ends[-1], SHAPE[1], SHAPE[2] // 128, len(sizes), num_sms)
    block_mn = CONFIG.block_m, CONFIG.block_n
    schedule = walk(LargestFirst, extents, (ends, 1), block_mn=block_mn, cluster_mnk=cluster_mnk)
    wanted = [Rows(0, group, end - sizes[group], end) for group, end in enumerate(ends)]
    assert_each_tile_once(schedule, wanted)
    return schedule


def show_walk():
    """What the CTAs are handed."""
    schedule = check(SIZES)
    tiles = sorted((tile for tile in schedule.tiles if tile.is_valid), key=lambda tile: tile.index)
    order = dict.fromkeys(tile.group for tile in tiles)
    sizes = ", ".join(str(SIZES[group]) for group in order)
    print(f"a walk for {len(schedule.ctas)} CTAs: {len(tiles)} tiles, each once")
    print(f"rows of groups in the order that they come in: {sizes}")


if __name__ == "__main__":
    show_walk()
    present(TUTORIAL)
