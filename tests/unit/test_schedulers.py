"""The schedulers that GPUs run, compiled for the CPU and walked for every CTA of a grid."""

import functools
import operator
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

import cutlass
import cutlass.cute as cute
import hypothesis.strategies as st
import pytest
import torch
from cutlass import Int32
from hypothesis import example, given

from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import DENSE as DENSE_LAYOUT
from cute_gemm.plan.layouts import LAYOUTS
from cute_gemm.plan.limits import MAX_EXTENT, MAX_GROUPS, OUT_BYTES, ceil_div
from cute_gemm.schedulers import taken
from cute_gemm.schedulers.dense import DenseScheduler
from cute_gemm.schedulers.group_table import TILE_LIMIT, GroupTableScheduler
from cute_gemm.schedulers.m_grouped_contiguous import MGroupedContiguousScheduler
from cute_gemm.schedulers.m_grouped_masked import MGroupedMaskedScheduler
from cute_gemm.schedulers.m_grouped_offsets import MGroupedOffsetsScheduler
from cute_gemm.schedulers.split_k import SplitKScheduler
from cute_gemm.testing import host_programs, schedules
from cute_gemm.testing.host_programs import FIELDS, READS, take_place, write
from cute_gemm.testing.schedules import Extents, Rows, Tile, assert_each_tile_once
from examples import examples, one_of_each, some_of

SCHEDULERS = {
    "dense": DenseScheduler,
    "split_k": SplitKScheduler,
    "contiguous": MGroupedContiguousScheduler,
    "offsets": MGroupedOffsetsScheduler,
    "masked": MGroupedMaskedScheduler,
}
CONFIGS = [
    config for config in candidates.every_config() if config.layout is DENSE_LAYOUT and not config.tma_scales
]


class Schedule(NamedTuple):
    """What is fixed when a kernel is compiled. Without `block_m`, it is taken from a call."""

    kind: str
    cluster_mn: tuple[int, int]
    raster_width: int
    block_m: int | None = None
    splits: int = 1


USED = {((config.cluster_m, config.cluster_n), config.raster_width) for config in CONFIGS}
DENSE = [
    Schedule("dense", *static)
    for static in sorted(USED | {((1, 1), 1), ((1, 1), 3), ((2, 1), 3), ((1, 2), 1), ((2, 2), 4)})
]
STATIC = ((1, 1), 16), ((1, 1), 3), ((2, 1), 8), ((2, 1), 1), ((1, 2), 16), ((1, 4), 16)
CONTIGUOUS = one_of_each(
    [
        (Schedule("contiguous", *static, block_m=64), Schedule("contiguous", *static, block_m=128))
        for static in (*STATIC, ((2, 2), 3))
    ]
)
OFFSETS = [Schedule("offsets", *static) for static in STATIC]
MASKED = [Schedule("masked", *static) for static in STATIC]


@pytest.mark.parametrize("layout", [name for name, layout in LAYOUTS.items() if layout.is_grouped])
def test_the_schedules_of_all_kernels_are_tested(layout: str) -> None:
    tested = {(schedule.kind, *schedule[1:3]) for schedule in CONTIGUOUS + OFFSETS + MASKED}
    for out_dtype in OUT_BYTES:
        for config in candidates.all_configs(out_dtype, LAYOUTS[layout]):
            assert (layout, (config.cluster_m, config.cluster_n), config.raster_width) in tested


class Call(NamedTuple):
    m: int
    n: int
    k_blocks: int = 1
    groups: int = 1
    alignment: int = 1
    num_sms: int = 132
    block_m: int = 64
    block_n: int = 64


# Running a scheduler on the host

ROWS = 1 << 16


def extents(call: Call) -> Extents:
    return Extents(call.m, call.n, call.k_blocks, call.groups, call.num_sms)


def grouping(schedule: Schedule, call: Call, data: Sequence[int]) -> tuple[Sequence[int] | int, ...]:
    """What a scheduler takes to say how rows fall into groups."""
    return {"dense": (), "split_k": (), "offsets": (data, call.alignment)}.get(schedule.kind, (data,))


class Stricter:
    """A program that may use only as much of a table as a call has groups."""

    def __init__(self, schedule: Schedule) -> None:
        cluster_mnk = *schedule.cluster_mn, schedule.splits
        scheduler, width = SCHEDULERS[schedule.kind], schedule.raster_width
        super().__init__(scheduler, cluster_mnk, width, (schedule.block_m, None))

    def entries(self, groups: Int32) -> Int32:
        return groups + 1


class Walk(Stricter, host_programs.Walk):
    """What :func:`cute_gemm.testing.walk` does."""


def walk(schedule: Schedule, call: Call, data: Sequence[int] = ()) -> schedules.Schedule:
    block_mn = schedule.block_m or call.block_m, call.block_n
    return schedules.run_walk(Walk(schedule), extents(call), block_mn, grouping(schedule, call, data))


def run(
    program: Any, schedule: Schedule, call: Call, data: Sequence[int] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """What another program writes, and the table it leaves."""
    block_mn, groups = (call.block_m, call.block_n), grouping(schedule, call, data)
    return schedules.run_program(program(schedule), extents(call), block_mn, groups, ROWS)


# What they should say, without the DSL


def spans(schedule: Schedule, call: Call, data: Sequence[int]) -> list[Rows]:
    """What is to be multiplied. Of the contiguous layout, tile by tile."""

    def clamped(row: int) -> int:
        return max(0, min(row, call.m))

    if schedule.kind == "dense":
        found = [Rows(0, 0, 0, call.m)]
    elif schedule.kind == "masked":
        found = [Rows(group, group, 0, clamped(rows)) for group, rows in enumerate(data)]
    elif schedule.kind == "offsets":
        ends = [clamped(end) for end in data]
        starts = [0, *(ceil_div(end, call.alignment) * call.alignment for end in ends)]
        found = [Rows(0, group, *rows) for group, rows in enumerate(zip(starts, ends, strict=False))]
    else:
        found, block_m = [], schedule.block_m or call.block_m
        for first in range(0, call.m, block_m):
            rows = data[first : first + block_m]
            length = next((i for i, group in enumerate(rows) if group < 0), len(rows))
            if rows[0] < call.groups:
                found.append(Rows(0, rows[0], first, first + length))
    return [span for span in found if span.first < span.end]


def tiles(schedule: Schedule, call: Call, data: Sequence[int]) -> list[tuple[int, ...]]:
    """Matrix of A, group, first row and end of its rows, for each tile along M; those of a cluster together.

    Clusters are whole: where they do not divide the tiles, some lie beyond. In the contiguous layout some are
    padding, and those beyond the matrix are like its last row.
    """
    cluster_m, block_m = schedule.cluster_mn[0], schedule.block_m or call.block_m
    found = spans(schedule, call, data)
    if schedule.kind != "contiguous" or cluster_m == 1:
        of_spans = [
            (span.m_group, span.group, first, span.end)
            for span in found
            for first in range(span.first, span.end, block_m)
        ]
        while len(of_spans) % cluster_m:
            m_group, group, first, end = of_spans[-1]
            of_spans.append((m_group, group, first + block_m, end))
        return of_spans
    ends, of_clusters = {span.first: span.end for span in found}, []
    for first in range(0, call.m, block_m * cluster_m):
        rows = range(first, first + block_m * cluster_m, block_m)
        named = [data[min(row, call.m - 1)] for row in rows]
        groups = [group for group in named if 0 <= group < call.groups]
        for row, group in zip(rows, named, strict=True):
            if groups:
                own = group if group in groups else groups[0]
                of_clusters.append((0, own, row, ends.get(row, min(row, call.m))))
    return of_clusters


def blocks(schedule: Schedule, call: Call, rows: int) -> int:
    """Tile-high blocks of so many rows."""
    return ceil_div(rows, schedule.block_m or call.block_m)


def table_of(schedule: Schedule, call: Call, data: Sequence[int]) -> list[int]:
    counts = Counter()
    for span in spans(schedule, call, data):
        counts[span.group] = blocks(schedule, call, span.end - span.first)
    return [0, *accumulate(counts[group] for group in range(call.groups))]


def rows_of(step: Tile) -> tuple[int, ...]:
    """A tile without its column, as in `tiles`."""
    return step.m_group, step.group, step.row, step.row_end


def check(schedule: Schedule, call: Call, data: Sequence[int] = (), overlap: bool = False) -> None:
    """Walks a schedule and compares it with what it should be; groups may overlap if they make no sense."""
    walked = walk(schedule, call, data)
    if not overlap:
        assert_each_tile_once(walked, spans(schedule, call, data))
    steps = walked.tiles
    cluster_m, cluster_n = schedule.cluster_mn
    block_m = schedule.block_m or call.block_m
    expected = spans(schedule, call, data)

    most = {
        "dense": blocks(schedule, call, call.m),
        "contiguous": blocks(schedule, call, call.m),
        "offsets": call.m // block_m + call.groups,
        "masked": blocks(schedule, call, call.m) * call.groups,
    }[schedule.kind]
    n_clusters = ceil_div(call.n, call.block_n * cluster_n)
    fitting = max(1, call.num_sms // (cluster_m * cluster_n))
    assert walked.grid == (cluster_m, cluster_n, min(ceil_div(most, cluster_m) * n_clusters, fitting))

    valid = [step for step in steps if step.is_valid]
    in_order = tiles(schedule, call, data)
    # Where clusters do not divide the columns, too, some of their tiles lie beyond.
    assert sorted((*rows_of(step), step.n_tile) for step in valid) == [
        (*tile, n_tile) for tile in sorted(in_order) for n_tile in range(n_clusters * cluster_n)
    ], "not each tile once"

    stored = Counter[tuple[int, int]]()
    for step in valid:
        if step.n_tile == 0:
            last = min(step.row + block_m, step.row_end)
            stored.update((step.m_group, row) for row in range(step.row, last))
    in_groups = Counter((span.m_group, row) for span in expected for row in range(span.first, span.end))
    assert stored == in_groups, "rows of no group, or not all rows of the groups"
    assert all(0 <= row < call.m for _, row in stored)

    m_groups = call.groups if schedule.kind == "masked" else 1
    for step in steps:
        assert 0 <= step.group < call.groups
        assert 0 <= step.m_group < m_groups
        assert 0 <= step.row < call.m + block_m * cluster_m
        assert 0 <= step.row_end <= call.m
        assert 0 <= step.n_tile < n_clusters * cluster_n
        assert (step.k_start, step.k_count) == (0, call.k_blocks)

    ctas = walked.ctas
    if schedule.kind != "contiguous":
        lengths = [len(seen) for seen in ctas.values()]
        assert max(lengths) - min(lengths) <= 1, "some CTA has two tiles more than another"

    # The CTAs of a cluster go side by side, tile by tile: they share operands, and count the same k-blocks.
    for (cluster, x, y), seen in ctas.items():
        along_m = zip(*(ctas[cluster, peer, y] for peer in range(cluster_m)), strict=True)
        for step, first, peers in zip(seen, ctas[cluster, 0, 0], along_m, strict=True):
            if step.is_valid:
                assert rows_of(step) == in_order[in_order.index(rows_of(first)) + x]
            assert step.n_tile == first.n_tile + y
            assert step.shares_b == (len({peer.group for peer in peers}) == 1)

    if issubclass(SCHEDULERS[schedule.kind], GroupTableScheduler):
        assert walked.table[: call.groups + 1].tolist() == table_of(schedule, call, data)


CALLS = st.builds(
    Call,
    m=st.integers(1, 2200),
    n=st.integers(1, 160).map(lambda n: 8 * n),
    k_blocks=st.integers(1, 200),
    groups=st.just(1),
    alignment=st.just(1),
    num_sms=st.integers(1, 160),
    block_m=st.sampled_from([16, 64, 128, 256]),
    block_n=st.integers(2, 16).map(lambda n: 16 * n),
)
# Fewer columns, as there may be many groups.
GROUPED_CALLS = st.builds(
    Call,
    m=st.just(0),
    n=st.integers(1, 40).map(lambda n: 8 * n),
    k_blocks=st.integers(1, 200),
    groups=st.just(0),
    num_sms=st.integers(1, 160),
    alignment=st.sampled_from([1, 16, 128]),
    block_m=st.sampled_from([16, 64, 128, 256]),
    block_n=st.sampled_from([64, 128, 192]),
)
GROUPS = st.sampled_from([1, 2, 3, 7, 31, 32, 33, 64, 255, 256])
SIZES = st.one_of(st.just(0), st.sampled_from([1, 7, 127, 128, 129, 255, 256, 257]), st.integers(0, 600))
EXTREMES = st.sampled_from([-(2**31), -1, 0, 1, 2**31 - 1])


def lists(element: st.SearchStrategy[int]) -> st.SearchStrategy[list[int]]:
    return GROUPS.flatmap(lambda groups: st.lists(element, min_size=groups, max_size=groups))


# The dense schedule


@pytest.mark.parametrize("schedule", DENSE, ids=str)
@examples(40)
# Whole bands, after which no row of tiles remains; and one that is cut short.
@example(Call(m=2048, n=512, k_blocks=4, num_sms=132, block_m=64, block_n=64))
@example(Call(m=900, n=512, k_blocks=4, num_sms=132, block_m=64, block_n=64))
@example(Call(m=1, n=8, k_blocks=1, num_sms=1, block_m=256, block_n=192))
@given(call=CALLS)
def test_every_tile_comes_once(schedule: Schedule, call: Call) -> None:
    check(schedule, call)


def order(schedule: Schedule, call: Call, data: Sequence[int] = ()) -> list[list[int]]:
    """The place of each tile in the schedule, row by row of tiles."""
    steps = walk(schedule, call, data).tiles
    rows: dict[int, dict[int, int]] = {}
    for step in steps:
        if step.is_valid:
            rows.setdefault(step.row, {})[step.n_tile] = step.index
    return [[columns[j] for j in sorted(columns)] for _, columns in sorted(rows.items())]


def test_tiles_are_walked_in_bands() -> None:
    """Three rows of tiles at a time, column by column; what remains is a narrower band."""
    assert order(Schedule("dense", (1, 1), 3), Call(m=5 * 64, n=4 * 64, num_sms=1)) == [
        [0, 3, 6, 9],
        [1, 4, 7, 10],
        [2, 5, 8, 11],
        [12, 14, 16, 18],
        [13, 15, 17, 19],
    ]


class Edge(Stricter, host_programs.HostProgram):
    """Writes down the last tiles of a schedule too long to be walked, as the CTAs of a cluster see them, and
    what they are told after them: first row and column, as a kernel counts them, and whether it is one."""

    @cute.jit
    def run(self, out, table, scheduler):
        last = scheduler.bands.m_tiles * scheduler.bands.n_tiles - 1
        row = 0
        for i in cutlass.range_constexpr(2):
            for x in cutlass.range_constexpr(self.cluster_mnk[0]):
                for y in cutlass.range_constexpr(self.cluster_mnk[1]):
                    tile = scheduler.work(last + i, Int32(x), Int32(y))
                    out[row, 0], out[row, 1] = tile.row, tile.n_tile
                    out[row, 2] = Int32(tile.is_valid)
                    row += 1


@pytest.mark.parametrize(("m", "n"), [(MAX_EXTENT, 8), (1, MAX_EXTENT // 8 * 8)])
@pytest.mark.parametrize("config", some_of(CONFIGS, 4), ids=lambda config: config.name)
def test_the_largest_extents_do_not_overflow(config: KernelConfig, m: int, n: int) -> None:
    """Not even in the CTAs of the last cluster whose tiles lie beyond the output.

    Where k-blocks are shared out, all CTAs of a cluster have the tile that one of a dense schedule has.
    """
    cluster_mn, block_mn = (config.cluster_m, config.cluster_n), (config.block_m, config.block_n)
    schedule = Schedule("dense", cluster_mn, config.raster_width)
    out, _ = run(Edge, schedule, Call(m=m, n=n, block_m=config.block_m, block_n=config.block_n))
    ends = [
        ceil_div(extent, block * peers) * block * peers
        for extent, block, peers in zip((m, n), block_mn, cluster_mn, strict=True)
    ]
    # A thread adds the place of its element in the tile.
    assert max(ends) <= 2**31
    firsts = [
        [ends[0] - (cluster_mn[0] - x) * block_mn[0], ends[1] // block_mn[1] - cluster_mn[1] + y]
        for x in range(cluster_mn[0])
        for y in range(cluster_mn[1])
    ]
    ctas = len(firsts)
    seen = out[: 2 * ctas, :3].tolist()
    # After the last tile comes no other, but the same one again.
    assert [row[:2] for row in seen] == firsts * 2
    assert [row[2] for row in seen] == [1] * ctas + [0] * ctas


# Groups in one matrix, of any size


def offsets_call(call: Call, sizes: Sequence[int], spare: int) -> tuple[Call, list[int]]:
    """A call with groups of these sizes, the first row of each aligned, and `spare` rows after the last."""
    ends, end = [], 0
    for size in sizes:
        end = ceil_div(end, call.alignment) * call.alignment + size
        ends.append(end)
    return call._replace(m=max(1, end + spare), groups=len(ends)), ends


SPLIT_K = [Schedule("split_k", (1, 1), 16, splits=splits) for splits in (2, 3, 4, 8)]


def test_all_numbers_of_ctas_that_share_out_k_are_tested() -> None:
    used = {(config.splits, config.raster_width) for config in CONFIGS if config.splits > 1}
    assert used == {(schedule.splits, schedule.raster_width) for schedule in SPLIT_K}


@pytest.mark.parametrize("schedule", SPLIT_K, ids=str)
@given(call=CALLS)
@example(Call(m=1, n=8, k_blocks=8))
@examples(100)
def test_split_k(schedule: Schedule, call: Call) -> None:
    walked = walk(schedule, call)
    assert_each_tile_once(walked, [Rows(0, 0, 0, call.m)])
    steps = walked.tiles
    tiles_mn = [
        (row, n_tile)
        for row in range(0, call.m, call.block_m)
        for n_tile in range(ceil_div(call.n, call.block_n))
    ]
    assert walked.grid == (1, 1, len(tiles_mn) * schedule.splits)
    assert [step.is_valid for step in steps] == [1, 0] * walked.grid[2], "not one tile each"
    firsts = steps[::2]
    assert all((step.row_end, step.m_group, step.group) == (call.m, 0, 0) for step in steps)

    clusters = [firsts[i : i + schedule.splits] for i in range(0, len(firsts), schedule.splits)]
    assert sorted((cluster[0].row, cluster[0].n_tile) for cluster in clusters) == tiles_mn
    for cluster in clusters:
        assert {(step.row, step.n_tile) for step in cluster} == {(cluster[0].row, cluster[0].n_tile)}
        ends = [step.k_start + step.k_count for step in cluster]
        assert [step.k_start for step in cluster] == [0, *ends[:-1]], "k-blocks left out, or summed up twice"
        assert ends[-1] == call.k_blocks
        counts = [step.k_count for step in cluster]
        assert max(counts) - min(counts) <= 1
        assert min(counts) > 0 or call.k_blocks < schedule.splits


@pytest.mark.parametrize("schedule", some_of(OFFSETS), ids=str)
@examples(30)
@example(call=Call(m=0, n=320), sizes=[0, 700, 0, 0, 1, 129, 0], spare=0)
@example(call=Call(m=0, n=320), sizes=[0] * 256, spare=0)
@example(call=Call(m=0, n=320), sizes=[0] * 256, spare=300)
@example(call=Call(m=0, n=320), sizes=[0] * 100 + [9000] + [0] * 155, spare=0)
@example(call=Call(m=0, n=64), sizes=list(range(1, 257)), spare=5)
@example(call=Call(m=0, n=64, num_sms=3), sizes=[i % 3 for i in range(MAX_GROUPS)], spare=5)
@given(call=GROUPED_CALLS, sizes=lists(SIZES), spare=st.integers(0, 200))
def test_offsets(schedule: Schedule, call: Call, sizes: list[int], spare: int) -> None:
    check(schedule, *offsets_call(call, sizes, spare))


@pytest.mark.parametrize("schedule", OFFSETS[::2], ids=str)
@examples(30)
@example(call=Call(m=0, n=64), m=500, ends=[500, 0, 500, 0, 500, 100])
@example(call=Call(m=0, n=64, alignment=128), m=500, ends=[499, 500, 2**31 - 1, -1])
@example(call=Call(m=0, n=64, alignment=2**31 - 1), m=500, ends=[7, 500, 500])
@given(call=GROUPED_CALLS, m=st.integers(1, 500), ends=lists(st.one_of(EXTREMES, st.integers(-9, 600))))
def test_offsets_that_make_no_sense(schedule: Schedule, call: Call, m: int, ends: list[int]) -> None:
    """Each end is brought into the matrix; groups that end before they begin are empty."""
    check(schedule, call._replace(m=m, groups=len(ends)), ends, overlap=True)


def test_bands_are_of_one_group() -> None:
    """Three rows of tiles at a time, column by column; the next group begins a band."""
    call, ends = offsets_call(Call(m=0, n=3 * 64, num_sms=1), [0, 4 * 64, 0, 2 * 64, 7, 0], 0)
    assert order(Schedule("offsets", (1, 1), 3), call, ends) == [
        [0, 3, 6],
        [1, 4, 7],
        [2, 5, 8],
        [9, 10, 11],
        [12, 14, 16],
        [13, 15, 17],
        [18, 19, 20],
    ]


def test_a_cluster_is_in_the_band_of_its_first_block() -> None:
    """Groups of 3, 1 and 4 blocks in clusters of two: the second cluster begins in the first group."""
    call, ends = offsets_call(Call(m=0, n=2 * 64, num_sms=2), [3 * 64, 1 * 64, 4 * 64], 0)
    assert order(Schedule("offsets", (2, 1), 8), call, ends) == [
        *([0, 2], [0, 2], [1, 3], [1, 3]),
        *([4, 6], [4, 6], [5, 7], [5, 7]),
    ]


def test_a_block_left_over_is_in_a_cluster_with_the_next_group() -> None:
    """Its CTAs do not share B then; nor does the last block, left over in all, share with another group."""
    call, ends = offsets_call(Call(m=0, n=8, num_sms=2), [64 + 1, 0, 1, 64, 1], 0)
    steps = walk(Schedule("offsets", (2, 1), 8), call, ends).tiles
    seen = [(step.x, step.group, step.row, step.shares_b) for step in steps if step.is_valid]
    assert sorted(seen) == [
        (0, 0, 0, 1), (0, 2, 65, 0), (0, 4, 130, 1),
        (1, 0, 64, 1), (1, 3, 66, 0), (1, 4, 194, 1),
    ]  # fmt: skip


# Groups in matrices of their own


@pytest.mark.parametrize("schedule", some_of(MASKED), ids=str)
@examples(30)
@example(call=Call(m=0, n=320), capacity=700, valid=[0, 700, 0, 0, 1, 129, 0])
@example(call=Call(m=0, n=320), capacity=200, valid=[0] * 256)
@example(call=Call(m=0, n=320), capacity=9000, valid=[0] * 100 + [9000] + [0] * 155)
@example(call=Call(m=0, n=64), capacity=256, valid=list(range(1, 257)))
@example(call=Call(m=0, n=64, num_sms=3), capacity=1, valid=[i % 3 % 2 for i in range(MAX_GROUPS)])
# More than there is room for, and less than nothing.
@example(call=Call(m=0, n=64), capacity=100, valid=[101, -1, 2**31 - 1, -(2**31)])
@given(call=GROUPED_CALLS, capacity=st.integers(1, 500), valid=lists(st.one_of(SIZES, EXTREMES)))
def test_masked(schedule: Schedule, call: Call, capacity: int, valid: list[int]) -> None:
    check(schedule, call._replace(m=capacity, groups=len(valid)), valid)


# Groups in one matrix, padded


def contiguous_index(blocks: Sequence[tuple[int, int]], last: int) -> list[int]:
    """The group of each row: blocks of 128 rows, so many of which are of a group; the last block is cut."""
    rows = [group if i < valid else -1 for group, valid in blocks for i in range(128)]
    return rows[: len(rows) - 128 + last]


BLOCKS = st.lists(
    st.tuples(
        st.one_of(st.integers(-1, 8), st.integers(0, 256)),
        st.one_of(st.just(128), st.sampled_from([0, 1, 64]), st.integers(0, 128)),
    ),
    min_size=1,
    max_size=24,
)


@pytest.mark.parametrize("schedule", some_of(CONTIGUOUS), ids=str)
@examples(30)
@example(call=Call(m=0, n=320), groups=3, blocks=[(2, 128), (0, 5), (0, 128), (-1, 0), (1, 1)], last=1)
@example(call=Call(m=0, n=320), groups=1, blocks=[(-1, 0)] * 30, last=128)
@example(call=Call(m=0, n=320), groups=1, blocks=[(0, 128)] * 30, last=64)
@example(call=Call(m=0, n=320), groups=2, blocks=[(0, 128), (1, 128), (0, 5)], last=128)
@example(call=Call(m=0, n=320), groups=256, blocks=[(i, i % 129) for i in range(256)], last=64)
# No such group.
@example(call=Call(m=0, n=320), groups=2, blocks=[(2, 128), (1, 128), (2**31 - 1, 7)], last=8)
@given(call=GROUPED_CALLS, groups=GROUPS, blocks=BLOCKS, last=st.integers(1, 128))
def test_contiguous(
    schedule: Schedule, call: Call, groups: int, blocks: list[tuple[int, int]], last: int
) -> None:
    index = contiguous_index(blocks, last)
    check(schedule, call._replace(m=len(index), groups=groups), index)


@pytest.mark.parametrize("schedule", CONTIGUOUS, ids=str)
@examples(30)
@given(
    call=GROUPED_CALLS,
    groups=st.integers(1, 9),
    index=st.lists(st.one_of(EXTREMES, st.integers(-1, 9)), min_size=1, max_size=700),
)
def test_an_index_that_makes_no_sense(schedule: Schedule, call: Call, groups: int, index: list[int]) -> None:
    """A tile is of the group of its first row, up to its first row that is padding."""
    check(schedule, call._replace(m=len(index), groups=groups), index)


@pytest.mark.parametrize(("cluster_m", "block_m", "refusal"), [(1, 256, "two groups"), (4, 64, "one peer")])
def test_contiguous_tiles_and_clusters_are_not_too_high(cluster_m: int, block_m: int, refusal: str) -> None:
    with pytest.raises(AssertionError, match=refusal):
        walk(Schedule("contiguous", (cluster_m, 1), 8, block_m), Call(m=1, n=8), [0])


# What is found out by the lanes of a warp together


class Lanes(Stricter, host_programs.HostProgram):
    """Has 32 lanes fill the table, then look for the group of each block of rows.

    They take turns, and leave in `out` what they hand to others. Of a shuffle upwards that suffices, as lower
    lanes come first. A reduction is right when all take a second turn, one that depends on it after a third.
    """

    lanes = 32

    @cute.jit
    def run(self, out, table, scheduler):
        for _ in cutlass.range_constexpr(2):
            for lane in cutlass.range(self.lanes, unroll=1):
                take_turn(out, lane, self.lanes)
                scheduler.prepare(table, lane)
        for block in cutlass.range(cutlass.min(table[scheduler.groups], ROWS // 2), unroll=1):
            for _ in cutlass.range_constexpr(3):
                for lane in cutlass.range(self.lanes, unroll=1):
                    take_turn(out, lane, self.lanes)
                    out[block, lane % 2] = replace(scheduler, table=table).group_of(block)


def take_turn(out: cute.Tensor, lane: Int32, lanes: int) -> None:
    """From here on, the code that is compiled runs as this lane."""
    # One column for each exchange, at the end of `out`.
    exchanges = iter(range(FIELDS))

    def shuffle_up(value: Int32, distance: int) -> Int32:
        column = next(exchanges)
        out[ROWS - lanes + lane, column] = value
        lower = out[ROWS - lanes + cutlass.max(lane - distance, 0), column]
        return cutlass.select_(lane >= distance, lower, value)

    def reduce(value: Int32, kind: str) -> Int32:
        combine = {"min": cutlass.min, "or": operator.or_}[kind]
        column = next(exchanges)
        out[ROWS - lanes + lane, column] = value
        of_lanes = [out[ROWS - lanes + other, column] for other in range(lanes)]
        return functools.reduce(combine, of_lanes)

    cute.arch.lane_idx = lambda: lane
    cute.arch.shuffle_sync_up = shuffle_up
    cute.arch.warp_redux_sync = reduce


@pytest.mark.parametrize(
    "sizes", [[5], [0] * 40 + [300], [1] * 32, [0, 1] * 128, list(range(MAX_GROUPS))], ids=len
)
def test_lanes_fill_and_search_the_table_together(sizes: list[int]) -> None:
    schedule = Schedule("masked", (1, 1), 8)
    call = Call(m=max(sizes), n=8, groups=len(sizes))
    out, filled = run(Lanes, schedule, call, sizes)
    table = table_of(schedule, call, sizes)
    assert filled[: len(table)].tolist() == table
    # Even and odd lanes.
    groups = [bisect_right(table, block) - 1 for block in range(table[-1])]
    assert out[: table[-1], :2].tolist() == [[group, group] for group in groups]


# Which rows no tile stores


class Taken(Stricter, host_programs.HostProgram):
    """Writes down the bits of all rows, 32 after 32 of one matrix after the other, from row 1 of `out` on."""

    @cute.jit
    def run(self, out, table, scheduler):
        take_place(Int32(0), Int32(0), Int32(0), Int32(1))
        prepared, (rows, matrices) = scheduler.prepare(table, Int32(0)), self.extents(scheduler)
        high = cute.ceil_div(rows, taken.ROWS)
        for matrix in cutlass.range(matrices, unroll=1):
            for place in cutlass.range(high, unroll=1):
                out[1 + matrix * high + place, 0] = prepared.rows_taken(place * taken.ROWS, matrix)

    def extents(self, scheduler: Any) -> tuple[Int32, Int32]:
        """Rows of a matrix of D, and how many there are."""
        if isinstance(scheduler, MGroupedMaskedScheduler):
            return scheduler.capacity, scheduler.groups
        return getattr(scheduler, "dense", scheduler).m, Int32(1)


class TakenByLanes(Taken):
    """The same for the first 32 rows, found out by 32 lanes: as `Lanes`, in row 1 + lane of `out`."""

    lanes = 32

    @cute.jit
    def run(self, out, table, scheduler):
        for _ in cutlass.range_constexpr(2):
            for lane in cutlass.range(self.lanes, unroll=1):
                take_turn(out, lane, self.lanes)
                out[1 + lane, 0] = scheduler.rows_taken(Int32(0), Int32(0))


def check_taken(schedule: Schedule, call: Call, data: Sequence[int]) -> None:
    """Of each row of D, that it is said to be taken where a tile stores it, and only there."""
    matrices, high = (call.groups if schedule.kind == "masked" else 1), ceil_div(call.m, taken.ROWS)
    stored = torch.zeros(matrices, high * taken.ROWS, dtype=torch.bool)
    for span in spans(schedule, call, data):
        stored[span.m_group, span.first : span.end] = True
    out, _ = run(Taken, schedule, call, data)
    bits = out[1 : 1 + matrices * high, 0, None] >> torch.arange(taken.ROWS) & 1 == 1
    assert torch.equal(bits.view(stored.shape)[:, : call.m], stored[:, : call.m])
    by_lanes, _ = run(TakenByLanes, schedule, call, data)
    within = (1 << min(call.m, taken.ROWS)) - 1
    assert {value & within for value in by_lanes[1:33, 0].tolist()} == {int(out[1, 0]) & within}


@pytest.mark.parametrize("schedule", [OFFSETS[0], OFFSETS[2]], ids=str)
@examples(60)
@example(call=Call(m=0, n=8, alignment=128), m=500, ends=[0, 7, 7, 128, 300, 300])
@example(call=Call(m=0, n=8), m=500, ends=[500, 0, 500, 0, 500, 100])
@example(call=Call(m=0, n=8, alignment=2**31 - 1), m=500, ends=[7, 500, 500])
@example(call=Call(m=0, n=8, alignment=16), m=64, ends=[i // 16 for i in range(MAX_GROUPS)])
@given(call=GROUPED_CALLS, m=st.integers(1, 500), ends=lists(st.one_of(EXTREMES, st.integers(-9, 600))))
def test_rows_between_offsets(schedule: Schedule, call: Call, m: int, ends: list[int]) -> None:
    for data in ends, sorted(ends):
        check_taken(schedule, call._replace(m=m, groups=len(ends)), data)


@pytest.mark.parametrize("schedule", [MASKED[0], MASKED[2]], ids=str)
@examples(60)
@example(call=Call(m=0, n=8), capacity=100, valid=[101, -1, 2**31 - 1, -(2**31), 100, 99, 96, 31, 32, 33])
@given(call=GROUPED_CALLS, capacity=st.integers(1, 500), valid=lists(st.one_of(SIZES, EXTREMES)))
def test_rows_behind_the_valid_ones(schedule: Schedule, call: Call, capacity: int, valid: list[int]) -> None:
    check_taken(schedule, call._replace(m=capacity, groups=len(valid)), valid)


LOW = [Schedule("contiguous", (1, 1), 16, block_m=16)]


@pytest.mark.parametrize("schedule", some_of([*CONTIGUOUS, *LOW]), ids=str)
@examples(30)
@example(call=Call(m=0, n=8), groups=2, blocks=[(2, 128), (1, 128), (2**31 - 1, 7), (0, 33)], last=40)
@given(call=GROUPED_CALLS, groups=GROUPS, blocks=BLOCKS, last=st.integers(1, 128))
def test_rows_of_padding(
    schedule: Schedule, call: Call, groups: int, blocks: list[tuple[int, int]], last: int
) -> None:
    index = contiguous_index(blocks, last)
    check_taken(schedule, call._replace(m=len(index), groups=groups), index)


@pytest.mark.parametrize("schedule", [*CONTIGUOUS[:2], *LOW], ids=str)
@examples(60)
@given(
    call=GROUPED_CALLS,
    groups=st.integers(1, 9),
    index=st.lists(st.one_of(EXTREMES, st.integers(-1, 9)), min_size=1, max_size=700),
)
def test_rows_of_an_index_that_makes_no_sense(
    schedule: Schedule, call: Call, groups: int, index: list[int]
) -> None:
    check_taken(schedule, call._replace(m=len(index), groups=groups), index)


class Count(Stricter, host_programs.HostProgram):
    """Counts how often the table is read for each tile of the schedule."""

    @cute.jit
    def run(self, out, table, scheduler):
        take_place(Int32(0), Int32(0), Int32(0), Int32(1))
        prepared = scheduler.prepare(table, Int32(0))
        tiles = table[scheduler.groups] * scheduler.n_clusters
        for index in cutlass.range(tiles + 1, unroll=1):
            out[READS] = Int32(0)
            prepared.at(index)
            out[1 + index, 0] = out[READS]


@pytest.mark.parametrize("groups", [1, 256, MAX_GROUPS])
@pytest.mark.parametrize("schedule", [OFFSETS[0], MASKED[0]], ids=str)
def test_a_tile_is_found_without_a_walk_through_all_groups(schedule: Schedule, groups: int) -> None:
    """Each lane reads two entries to find the group, then where it begins and ends, and where all do."""
    call, data = offsets_call(Call(m=0, n=200), [i % 2 for i in range(groups)], 1)
    tiles = table_of(schedule, call, data)[-1] * ceil_div(call.n, call.block_n)
    out, _ = run(Count, schedule, call, data)
    assert out[1 : 2 + tiles, 0].tolist() == [2 * 32 + 3] * (tiles + 1)


# Near the largest integers


class Ends(Stricter, host_programs.HostProgram):
    """Writes down the first tile of a schedule too long to be walked, the last, and what follows soon and
    late, as each CTA of a cluster is told."""

    @cute.jit
    def run(self, out, table, scheduler):
        row = Int32(1)
        for x in cutlass.range(self.cluster_mnk[0], unroll=1):
            for y in cutlass.range(self.cluster_mnk[1], unroll=1):
                take_place(x, y, Int32(0), Int32(1))
                walked = scheduler.prepare(table, Int32(0))
                blocks = table[scheduler.groups]
                total = cute.ceil_div(blocks, self.cluster_mnk[0]) * scheduler.n_clusters
                for i in cutlass.range(4, unroll=1):
                    index = total - 2 + i
                    if i == 0:
                        index = Int32(0)
                    if i == 3:
                        index = total + 2**30
                    row = write(out, row, walked.at(index), 0, x, y)


def nth_tile(schedule: Schedule, call: Call, data: Sequence[int], n: int) -> tuple[int, ...]:
    """That of `tiles`, of which there may be too many to list."""
    expected = spans(schedule, call, data)
    for span in expected:
        count = blocks(schedule, call, span.end - span.first)
        if n < count or span == expected[-1]:
            return span.m_group, span.group, span.first + n * call.block_m, span.end
        n -= count
    raise ValueError("no tiles")


def ends(schedule: Schedule, call: Call, data: Sequence[int]) -> tuple[list[list[Tile]], torch.Tensor]:
    """What `Ends` writes down, for each CTA of a cluster, and the table."""
    out, table = run(Ends, schedule, call, data)
    size = schedule.cluster_mn[0] * schedule.cluster_mn[1]
    steps = [Tile(*row) for row in out[1 : 1 + 4 * size].tolist()]
    return [steps[4 * i : 4 * i + 4] for i in range(size)], table


LAST = MAX_EXTENT


@pytest.mark.parametrize("block_m", [64, 256])
@pytest.mark.parametrize(
    ("schedule", "call", "data"),
    [
        (schedule, Call(m=LAST, n=16, groups=groups, alignment=alignment), data)
        for schedule in some_of((*OFFSETS, *MASKED), 3)
        for groups, alignment, data in [
            (1, 1, [LAST]),
            (3, 1, [LAST - 700, LAST - 129, LAST]),
            (3, 128, [LAST - 700, LAST - 129, LAST]),
            # Rounded up, the end of the first group is no Int32.
            (3, 4096, [LAST, LAST, LAST]),
            (3, 2**30 + 1, [LAST, 0, 0]),
            (3, 2**30, [1, LAST, LAST]),
        ]
    ],
    ids=str,
)
def test_rows_near_the_end_of_the_largest_matrices(
    schedule: Schedule, call: Call, data: list[int], block_m: int
) -> None:
    call = call._replace(block_m=block_m)
    cluster_m = schedule.cluster_mn[0]
    last_cluster = ceil_div(table_of(schedule, call, data)[-1], cluster_m) - 1
    for first, last, *after in ends(schedule, call, data)[0]:
        assert rows_of(first) == nth_tile(schedule, call, data, first.x)
        assert rows_of(last) == nth_tile(schedule, call, data, last_cluster * cluster_m + last.x)
        assert (first.n_tile, last.n_tile) == (first.y, last.y)
        assert (first.is_valid, last.is_valid) == (1, 1)
        assert last.row + block_m <= 2**31
        # After the last tile comes no other, but the same one again.
        assert [step[4:] for step in after] == [(*last[4:-1], 0)] * 2


@pytest.mark.parametrize("schedule", some_of(OFFSETS), ids=str)
@pytest.mark.parametrize("n", [8, 10000])
def test_groups_that_claim_too_many_rows_are_left_out(schedule: Schedule, n: int) -> None:
    """More tiles than can be counted: each of half of the groups claims all rows of the largest matrix."""
    data = [LAST, 0] * (MAX_GROUPS // 2)
    call = Call(m=LAST, n=n, groups=len(data))
    n_clusters = ceil_div(n, call.block_n * schedule.cluster_mn[1])
    most = TILE_LIMIT // n_clusters
    true_table = table_of(schedule, call, data)
    assert true_table[-1] > most
    table = [min(blocks, most) for blocks in true_table]

    seen, filled = ends(schedule, call, data)
    for first, last, *after in seen:
        assert (first.is_valid, last.is_valid, after[0].is_valid, after[1].is_valid) == (1, 1, 0, 0)
        for step in (first, last, *after):
            assert 0 <= step.row <= 2**31 - call.block_m
            assert 0 <= step.group < call.groups
            assert step.row_end == LAST
    assert filled[: len(table)].tolist() == table

    _, filled = run(Lanes, schedule, call, data)
    assert filled[: len(table)].tolist() == table
