"""How zeros are shared out over CTAs: the code that a warp of each runs, compiled for the CPU, with one lane.

What a scheduler says of rows is in test_schedulers.py.
"""

from itertools import product
from typing import Any

import cutlass
import cutlass.cute as cute
import pytest
import torch
from cutlass import Int32
from levels import cases

from cute_gemm.kernels.epilogue import fill
from cute_gemm.schedulers.m_grouped_contiguous import MGroupedContiguousScheduler
from cute_gemm.schedulers.m_grouped_masked import MGroupedMaskedScheduler
from cute_gemm.schedulers.m_grouped_offsets import MGroupedOffsetsScheduler
from cute_gemm.testing.host_programs import FIELDS, HostProgram
from cute_gemm.testing.schedules import Extents, run_program

GAP = 8
"""Columns between rows, which nothing may write."""


@cute.jit
def count(values, first: cutlass.Constexpr[int], size: cutlass.Constexpr[int], target, place: tuple):
    """In place of a store: adds one to all that it would write."""
    row, column = place
    for i in cutlass.range_constexpr(size):
        target[row, column + i] = target[row, column + i] + 1


class Filled(HostProgram):
    """All CTAs of a grid, one after the other, fill a D of Int32, which is behind row 0 of `out`."""

    n: int

    @cute.jit
    def run(self, out, table, scheduler):
        m, matrices = self.extents(scheduler)
        pitch = self.n + GAP
        layout = cute.make_layout((m, self.n, matrices), stride=(pitch, 1, pitch * m))
        mD = cute.make_tensor(out.iterator + FIELDS, layout)
        width, height, depth = scheduler.grid_shape()
        for x in cutlass.range(width, unroll=1):
            for y in cutlass.range(height, unroll=1):
                for z in cutlass.range(depth, unroll=1):
                    self.take_place((x, y, z), (Int32(width), Int32(height), depth))
                    fill.zero_other_rows(mD, scheduler)

    def extents(self, scheduler: Any) -> tuple[Int32, Any]:
        """Rows of a matrix of D, and how many there are."""
        if isinstance(scheduler, MGroupedMaskedScheduler):
            return scheduler.capacity, scheduler.groups
        return getattr(scheduler, "dense", scheduler).m, 1

    def take_place(self, block: tuple, grid: tuple) -> None:
        cute.arch.block_idx = lambda: block
        cute.arch.grid_dim = lambda: grid


class Narrow(Filled):
    n = 8


class Wide(Filled):
    n = 264


CASES: dict[str, tuple[Any, int, tuple[Any, ...], list[list[int]]]] = {
    "offsets": (
        MGroupedOffsetsScheduler,
        100,
        ([3, 3, 40, 64], 8),
        [[*range(3, 8), *range(64, 100)]],
    ),
    "offsets, all taken": (MGroupedOffsetsScheduler, 65, ([65, 65], 1), [[]]),
    "offsets, none taken": (MGroupedOffsetsScheduler, 33, ([0, 0], 1), [[*range(33)]]),
    "masked": (
        MGroupedMaskedScheduler,
        70,
        ([0, 70, 31, 33, -5, 1000],),
        [[*range(first, 70)] for first in (0, 70, 31, 33, 0, 70)],
    ),
    "contiguous": (
        MGroupedContiguousScheduler,
        200,
        ([1] * 60 + [-1] * 68 + [7] * 64 + [-2] * 8,),
        [[*range(60, 200)]],
    ),
}


@pytest.mark.parametrize(
    ("program", "cluster_mn"),
    cases(product((Narrow, Wide), ((1, 1), (2, 1), (1, 2))), usual=[(Narrow, (2, 1)), (Wide, (1, 2))]),
    ids=lambda part: str(part) if isinstance(part, tuple) else part.__name__,
)
@pytest.mark.parametrize("case", CASES)
def test_every_column_of_nobodys_rows_is_written_once(
    case: str, program: type[Filled], cluster_mn: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, m, grouping, wanted = CASES[case]
    monkeypatch.setattr(fill, "store", count)
    monkeypatch.setattr(fill, "WARP", 1)
    made = program(scheduler, (*cluster_mn, 1), 16, (64, 64))
    pitch, matrices = program.n + GAP, len(wanted)
    # One CTA for all, about one for each 32 rows, and many for each of them.
    for num_sms, columns in ((2, 64), (5, 640), (132, 64 * 200)):
        extents = Extents(
            m, columns, 1, 2 if scheduler is MGroupedContiguousScheduler else len(grouping[0]), num_sms
        )
        rows = 2 + matrices * m * pitch // FIELDS
        out, _ = run_program(made, extents, (64, 64), grouping, rows)
        found = out.flatten()[FIELDS : FIELDS + matrices * m * pitch].view(matrices, m, pitch)
        expected = torch.zeros_like(found)
        for matrix, nobodys in enumerate(wanted):
            expected[matrix, nobodys, : program.n] = 1
        assert torch.equal(found, expected)
