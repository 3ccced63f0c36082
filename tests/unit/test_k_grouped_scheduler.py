"""The schedulers of groups of columns, compiled for the CPU and walked for every CTA of a grid."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import cutlass
import cutlass.cute as cute
import hypothesis.strategies as st
import pytest
from cutlass import Int32
from hypothesis import example, given
from test_schedulers import take_turn

from cute_gemm.plan.limits import MAX_EXTENT, MAX_GROUPS, ceil_div
from cute_gemm.schedulers.k_grouped import KGroupedAddingScheduler, KGroupedScheduler
from cute_gemm.testing import host_programs, schedules
from cute_gemm.testing.host_programs import FIELDS, READS, take_place, write
from cute_gemm.testing.schedules import Extents, Tile
from examples import examples

ROWS = 1 << 16
KINDS = KGroupedScheduler, KGroupedAddingScheduler


class Schedule(NamedTuple):
    """What is fixed when a kernel is compiled."""

    scheduler: type
    cluster_mn: tuple[int, int] = (1, 1)
    raster_width: int = 16

    def __str__(self) -> str:
        return f"{self.scheduler.__name__}-{self.cluster_mn}-{self.raster_width}"


SCHEDULES = [
    Schedule(kind, *static)
    for kind in KINDS
    for static in (((1, 1), 16), ((1, 1), 3), ((2, 1), 8), ((1, 2), 16), ((2, 2), 3))
]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
every_kind = pytest.mark.parametrize("schedule", [Schedule(kind) for kind in KINDS], ids=str)


class Call(NamedTuple):
    m: int
    n: int
    k: int
    edges: tuple[int, ...]
    num_sms: int = 132
    block_m: int = 128
    block_n: int = 128

    @property
    def groups(self) -> int:
        return len(self.edges) - 1

    @property
    def tiles_mn(self) -> tuple[int, int]:
        return ceil_div(self.m, self.block_m), ceil_div(self.n, self.block_n)

    def columns(self, group: int) -> tuple[int, int]:
        """Where a group begins and ends, by what the operation says."""
        first, end = (max(0, min(self.edges[group + i], self.k)) // 16 * 16 for i in range(2))
        return first, max(first, end)


class Step(NamedTuple):
    """A tile, and what is said of K."""

    tile: Tile
    k_element: int
    k_last: int
    k_group: int


class Stricter:
    """A program that may use only as much of a table as a call has groups."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(schedule.scheduler, (*schedule.cluster_mn, 1), schedule.raster_width, (None, None))

    def entries(self, groups: Int32) -> Int32:
        return groups + 1 if self.scheduler.table_entries else 0


@cute.jit
def note(out, row, tile, cluster, x, y):
    """Two rows of a tile: as others, and what else it says."""
    following = write(out, row, tile, cluster, x, y)
    if following < out.shape[0]:
        out[following, 0], out[following, 1] = tile.k_element, tile.k_last
        out[following, 2], out[following, 3] = tile.out_matrix, tile.k_shift(128)
    return following + 1


class Walk(Stricter, host_programs.Walk):
    """What :func:`cute_gemm.testing.walk` does, with two rows for each tile."""

    def note(self, out, row, tile, cluster, x, y) -> Any:
        return note(out, row, tile, cluster, x, y)


def run(program: Any, schedule: Schedule, call: Call, rows: int = ROWS) -> Any:
    extents = Extents(call.m, call.n, 0, call.groups, call.num_sms)
    grouping = call.edges, call.k
    return schedules.run_program(program(schedule), extents, call[-2:], grouping, rows)


def steps_of(rows: Sequence[list[int]]) -> list[Step]:
    found = []
    for tile, more in zip(rows[::2], rows[1::2], strict=True):
        step = Step(Tile(*tile), *more[:3])
        assert more[3] == step.k_element - 128 * step.tile.k_start
        found.append(step)
    return found


def walk(schedule: Schedule, call: Call) -> tuple[tuple[int, ...], dict[tuple[int, ...], list[Step]]]:
    """The grid, and what each CTA sees."""
    out, _ = run(Walk, schedule, call)
    rows = int(out[0, 3])
    assert rows <= ROWS
    ctas = defaultdict(list)
    for step in steps_of(out[1:rows].tolist()):
        ctas[step.tile[:3]].append(step)
    return tuple(out[0, :3].tolist()), dict(ctas)


def check(schedule: Schedule, call: Call) -> None:
    grid, ctas = walk(schedule, call)
    cluster_m, cluster_n = schedule.cluster_mn
    m_clusters = ceil_div(call.tiles_mn[0], cluster_m)
    n_clusters = ceil_div(call.tiles_mn[1], cluster_n)
    of_group = m_clusters * n_clusters
    most = max(1, call.num_sms // (cluster_m * cluster_n))
    assert grid == (cluster_m, cluster_n, min(call.groups * of_group, most))
    assert len(ctas) == grid[0] * grid[1] * grid[2]

    adds = schedule.scheduler is KGroupedAddingScheduler
    spans = [call.columns(group) for group in range(call.groups)]
    in_schedule = [group for group, (first, end) in enumerate(spans) if end > first or not adds]
    wanted = [
        (group, m_tile * call.block_m, n_tile)
        for group in in_schedule
        for m_tile in range(m_clusters * cluster_m)
        for n_tile in range(n_clusters * cluster_n)
    ]
    steps = [step for seen in ctas.values() for step in seen]
    found = [(step.k_group, step.tile.row, step.tile.n_tile) for step in steps if step.tile.is_valid]
    assert sorted(found) == wanted, "not each tile once"

    for step in steps:
        tile = step.tile
        first, end = spans[step.k_group]
        count = ceil_div(end - first, 128)
        assert (tile.m_group, tile.group, tile.shares_b, tile.row_end) == (0, 0, 1, call.m)
        assert (step.k_element, tile.k_start, tile.k_count) == (first, first // 128 + step.k_group, count)
        assert step.k_last == (end - first - 128 * (count - 1) if count else 0)
        # No scale beyond the last column is read, nor a tile that is not there prepared for.
        assert 0 <= tile.k_start <= tile.k_start + max(count, 1) - 1 < call.k // 128 + call.groups
        assert 0 <= tile.row < m_clusters * cluster_m * call.block_m
        assert 0 <= tile.n_tile < n_clusters * cluster_n

    lengths = [len(seen) for seen in ctas.values()]
    assert max(lengths) - min(lengths) <= 1
    for (cluster, x, y), seen in ctas.items():
        assert [step.tile.is_valid for step in seen] == [1] * (len(seen) - 1) + [0], "does not end once"
        for number, (step, leader) in enumerate(zip(seen, ctas[cluster, 0, 0], strict=True)):
            assert step.tile.index == leader.tile.index == cluster + number * grid[2]
            if step.tile.is_valid:
                assert step.k_group == in_schedule[step.tile.index // of_group], "groups are not in order"
            assert step[1:] == leader[1:]
            assert step.tile.row == leader.tile.row + x * call.block_m
            assert step.tile.n_tile == leader.tile.n_tile + y


def edges_of(sizes: Sequence[int], first: int = 0) -> tuple[int, ...]:
    """Of groups of so many times 16 columns."""
    found = [first]
    for size in sizes:
        found.append(found[-1] + 16 * size)
    return tuple(found)


SIZES = st.one_of(st.just(0), st.sampled_from([1, 7, 8, 9, 16, 17]), st.integers(0, 60))
GROUPS = st.sampled_from([1, 2, 3, 7, 31, 32, 33, 64])
SIZE_LISTS = GROUPS.flatmap(lambda groups: st.lists(SIZES, min_size=groups, max_size=groups))
EXTENTS = {
    "m": st.integers(1, 900),
    "n": st.integers(1, 100).map(lambda n: 8 * n),
    "num_sms": st.integers(1, 160),
    "block_m": st.sampled_from([64, 128, 256]),
    "block_n": st.sampled_from([64, 128, 192]),
}


@every_schedule
@examples(60)
@example(extents=dict(m=1, n=8, num_sms=1), sizes=[0], first=0, behind=0)
@example(extents=dict(m=900, n=800, num_sms=7), sizes=[0, 8, 0, 0, 1, 9, 0], first=5, behind=3)
@example(extents=dict(m=300, n=300, num_sms=132), sizes=[0] * 64, first=0, behind=0)
@example(extents=dict(m=100, n=64, num_sms=3), sizes=[i % 3 for i in range(MAX_GROUPS)], first=0, behind=0)
@given(
    extents=st.fixed_dictionaries(EXTENTS),
    sizes=SIZE_LISTS,
    first=st.integers(0, 20),
    behind=st.integers(0, 20),
)
def test_every_tile_comes_once(
    schedule: Schedule, extents: dict[str, int], sizes: list[int], first: int, behind: int
) -> None:
    edges = edges_of(sizes, 16 * first)
    check(schedule, Call(k=max(16, edges[-1] + 16 * behind), edges=edges, **extents))


EXTREMES = st.sampled_from([-(2**31), -1, 0, 1, 15, 17, 2**31 - 1])


@every_schedule
@examples(60)
@example(extents=dict(m=300, n=64, num_sms=5), k=512, edges=[512, 0, 512, 0, 100, -7])
@given(
    extents=st.fixed_dictionaries(EXTENTS),
    k=st.integers(1, 40).map(lambda k: 16 * k),
    edges=st.lists(st.one_of(EXTREMES, st.integers(-9, 700)), min_size=2, max_size=40),
)
def test_edges_that_make_no_sense(
    schedule: Schedule, extents: dict[str, int], k: int, edges: list[int]
) -> None:
    """Nothing lies beyond the matrices and their scales, and all tiles come."""
    check(schedule, Call(k=k, edges=tuple(edges), **extents))


@given(sizes=SIZE_LISTS, first=st.integers(0, 20))
@example(sizes=[1] * MAX_GROUPS, first=0)
@example(sizes=[8] * 9, first=7)
def test_no_two_groups_share_a_column_of_scales(sizes: list[int], first: int) -> None:
    """The columns of a group, by its edges alone, end before those of the next begin."""
    edges = edges_of(sizes, 16 * first)
    at = 0
    for group, (begin, end) in enumerate(itertools.pairwise(edges)):
        column = begin // 128 + group
        assert column >= at
        at = column + ceil_div(end - begin, 128)
    assert at <= edges[-1] // 128 + len(sizes)


def test_tiles_of_a_group_are_walked_in_bands() -> None:
    """Three rows of tiles at a time, column by column; the next group begins a band."""
    call = Call(m=4 * 128, n=2 * 128, k=48, edges=(0, 16, 16, 48), num_sms=1)
    _, ctas = walk(Schedule(KGroupedAddingScheduler, (1, 1), 3), call)
    seen = [(step.k_group, step.tile.row // 128, step.tile.n_tile) for step in ctas[0, 0, 0][:-1]]
    of_one = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1)]
    assert seen == [(group, *tile) for group in (0, 2) for tile in of_one]


class Count(Stricter, host_programs.HostProgram):
    """Notes how often the table is read for each of the first tiles."""

    @cute.jit
    def run(self, out, table, scheduler):
        take_place(Int32(0), Int32(0), Int32(0), Int32(1))
        prepared = scheduler.prepare(table, Int32(0))
        for index in cutlass.range(8, unroll=1):
            out[READS] = Int32(0)
            prepared.at(index)
            out[1 + index, 0] = out[READS]


@every_kind
def test_a_tile_is_found_without_a_search(schedule: Schedule) -> None:
    """Whatever the number of groups: how many there are, and which comes at this place."""
    call = Call(m=128, n=128, k=16 * MAX_GROUPS, edges=edges_of([1] * MAX_GROUPS))
    out, _ = run(Count, schedule, call)
    assert max(out[1:9, 0].tolist()) <= 3


class Lanes(Stricter, host_programs.HostProgram):
    """Has 32 lanes fill the table: as of `test_schedulers`."""

    lanes = 32

    @cute.jit
    def run(self, out, table, scheduler):
        for _ in cutlass.range_constexpr(2):
            for lane in cutlass.range(self.lanes, unroll=1):
                take_turn(out, lane, self.lanes)
                scheduler.prepare(table, lane)


@pytest.mark.parametrize(
    "sizes", [[5], [0], [0] * 40 + [300], [1] * 32, [0, 1] * 128, [i % 3 for i in range(MAX_GROUPS)]], ids=len
)
def test_lanes_list_the_groups_that_have_columns_together(sizes: list[int]) -> None:
    edges = edges_of(sizes)
    call = Call(m=8, n=8, k=max(16, edges[-1]), edges=edges)
    _, table = run(Lanes, Schedule(KGroupedAddingScheduler), call)
    some = [group for group, size in enumerate(sizes) if size]
    assert table[: 1 + len(some)].tolist() == [len(some), *some]


class Ends(Stricter, host_programs.HostProgram):
    """Writes down the first tile of a schedule, the last, and one far behind it."""

    @cute.jit
    def run(self, out, table, scheduler):
        take_place(Int32(0), Int32(0), Int32(0), Int32(1))
        walked = scheduler.prepare(table, Int32(0))
        total = walked.groups_in_schedule() * walked.bands.m_tiles * walked.bands.n_tiles
        row = Int32(1)
        for i in cutlass.range(3, unroll=1):
            index = total - 1
            if i == 0:
                index = Int32(0)
            if i == 2:
                index = total + 2**30
            row = note(out, row, walked.at(index), 0, 0, 0)


@every_kind
def test_columns_near_the_end_of_the_largest_matrices(schedule: Schedule) -> None:
    last = MAX_EXTENT // 16 * 16
    call = Call(m=MAX_EXTENT, n=8, k=last, edges=(0, 0, 16, last))
    out, _ = run(Ends, schedule, call, 16)
    first, end, behind = steps_of(out[1:7].tolist())
    assert first.tile.is_valid
    assert end.tile.is_valid
    assert not behind.tile.is_valid
    assert first.k_group == (1 if schedule.scheduler is KGroupedAddingScheduler else 0)
    assert (end.k_group, end.k_element) == (behind.k_group, behind.k_element) == (2, 16)
    assert end.tile.k_start == 2
    assert 128 * (end.tile.k_count - 1) + end.k_last == last - 16
    assert 0 <= end.tile.row < end.tile.row_end == MAX_EXTENT <= end.tile.row + 128


def test_there_is_room_for_what_varies() -> None:
    """In a slot of the work queue, which every kernel shares."""
    from cute_gemm.kernels.work_queue import FIELDS as ROOM

    assert len(KGroupedScheduler.varying.fget(None)) <= ROOM
    assert len(Tile._fields) == FIELDS
