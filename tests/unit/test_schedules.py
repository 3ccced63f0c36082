"""The walker of schedulers and its judge, with schedulers of a user's own, right and wrong."""

import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import cutlass.cute as cute
import pytest
from cutlass import Boolean, Constexpr, Int32

from cute_gemm.schedulers.base import WorkTile
from cute_gemm.schedulers.dense import DenseScheduler
from cute_gemm.schedulers.m_grouped_contiguous import MGroupedContiguousScheduler
from cute_gemm.schedulers.m_grouped_masked import MGroupedMaskedScheduler
from cute_gemm.schedulers.m_grouped_offsets import MGroupedOffsetsScheduler
from cute_gemm.schedulers.split_k import SplitKScheduler
from cute_gemm.testing import Extents, Rows, Schedule, Tile, assert_each_tile_once, walk

EXTENTS = Extents(m=200, n=136, k_blocks=5, num_sms=7)
TILES = [(row, n_tile) for row in (0, 64, 128, 192) for n_tile in range(3)]


@dataclass(frozen=True)
class ColumnScheduler:
    """Column by column of tiles, each CTA on its own."""

    table_entries: ClassVar[int] = 0
    has_padding: ClassVar[bool] = False
    reads_memory: ClassVar[bool] = False
    varying: ClassVar[tuple[str, ...]] = ("is_valid", "row", "n_tile")

    block_m: Constexpr[int]
    m: Int32
    k_blocks: Int32
    m_tiles: Int32
    n_tiles: Int32
    ctas: Int32

    @classmethod
    def to_params(
        cls, m, n, k_blocks, groups, grouping, num_sms, *, block_mn, cluster_mnk, raster_width
    ) -> "ColumnScheduler":
        m_tiles, n_tiles = cute.ceil_div(m, block_mn[0]), cute.ceil_div(n, block_mn[1])
        return cls(block_mn[0], m, k_blocks, m_tiles, n_tiles, num_sms)

    def grid_shape(self) -> Any:
        return (1, 1, self.ctas)

    def prepare(self, table: Any, tidx: Int32) -> "ColumnScheduler":
        return self

    def initial_work(self) -> WorkTile:
        return self.at(cute.arch.block_idx()[2])

    @cute.jit
    def at(self, index: Int32) -> WorkTile:
        return WorkTile(
            index=index,
            row=index % self.m_tiles * self.block_m,
            row_end=self.m,
            n_tile=index // self.m_tiles,
            m_group=Int32(0),
            group=Int32(0),
            shares_b=Boolean(True),
            k_start=Int32(0),
            k_count=self.k_blocks,
            is_valid=index < self.m_tiles * self.n_tiles,
            is_padding=Boolean(False),
        )


@dataclass(frozen=True)
class Early(ColumnScheduler):
    """Forgets the last column of tiles."""

    @cute.jit
    def at(self, index: Int32) -> WorkTile:
        return replace(ColumnScheduler.at(self, index), is_valid=index < self.m_tiles * (self.n_tiles - 1))


@dataclass(frozen=True)
class Late(ColumnScheduler):
    """Forgets to say that the column varies."""

    varying: ClassVar[tuple[str, ...]] = ("is_valid", "row")


@dataclass(frozen=True)
class Reading(ColumnScheduler):
    """Takes the matrix of A from a vector that it is given, at a place that it is given."""

    groups: cute.Tensor
    place: Int32

    @classmethod
    def to_params(cls, m, n, k_blocks, groups, grouping, num_sms, *, block_mn, cluster_mnk, raster_width):
        m_tiles, n_tiles = cute.ceil_div(m, block_mn[0]), cute.ceil_div(n, block_mn[1])
        return cls(block_mn[0], m, k_blocks, m_tiles, n_tiles, num_sms, *grouping)

    @cute.jit
    def at(self, index: Int32) -> WorkTile:
        return replace(ColumnScheduler.at(self, index), m_group=self.groups[self.place])


def test_a_users_scheduler_is_walked_for_every_cta() -> None:
    schedule = walk(ColumnScheduler, EXTENTS)
    assert schedule.grid == (1, 1, 7)
    assert list(schedule.ctas) == [(cta, 0, 0) for cta in range(7)]
    seen = schedule.ctas[2, 0, 0]
    assert [(tile.index, tile.row, tile.n_tile, tile.is_valid) for tile in seen] == [
        (2, 128, 0, 1),
        (9, 64, 2, 1),
        (16, 0, 4, 0),
    ]
    assert sorted((tile.row, tile.n_tile) for tile in schedule.tiles if tile.is_valid) == TILES
    assert_each_tile_once(schedule, [Rows(0, 0, 0, 200)])


def test_tiles_may_have_any_size_and_be_more_than_there_was_room_for() -> None:
    extents = Extents(m=64 * 150, n=64 * 150, num_sms=3)
    schedule = walk(ColumnScheduler, extents)
    assert len(schedule.tiles) == 150 * 150 + 3
    assert_each_tile_once(schedule, [Rows(0, 0, 0, extents.m)])
    wide = walk(ColumnScheduler, EXTENTS, block_mn=(128, 192))
    assert len(wide.tiles) == 2 + 7
    assert_each_tile_once(wide, [Rows(0, 0, 0, 200)])


@pytest.mark.parametrize("scheduler", [Early, Late])
def test_a_scheduler_that_leaves_something_out_is_seen(scheduler: Any) -> None:
    with pytest.raises(AssertionError, match="along N"):
        assert_each_tile_once(walk(scheduler, EXTENTS), [Rows(0, 0, 0, 200)])


@dataclass(frozen=True)
class Endless(ColumnScheduler):
    @cute.jit
    def at(self, index: Int32) -> WorkTile:
        return replace(ColumnScheduler.at(self, index), is_valid=Boolean(True))


def test_a_schedule_without_end_is_seen() -> None:
    with pytest.raises(AssertionError, match="is_valid never becomes false"):
        walk(Endless, EXTENTS)


def test_a_read_out_of_bounds_is_seen() -> None:
    assert walk(Reading, EXTENTS, ([0, 0, 5], 2)).tiles[0].m_group == 5
    with pytest.raises(AssertionError, match="out of bounds"):
        walk(Reading, EXTENTS, ([0, 0, 5], 3))


RIGHT = [Tile(0, x, 0, 0, 64 * x, 100, 0, 0, 0, 1, 0, 2, valid) for x in range(2) for valid in (1, 0)]
WRONG = {
    "as it should be": (lambda tiles: tiles, ""),
    "a tile twice": (lambda t: [t[0], *t[:2], t[2], *t[2:]], "k-blocks missing or twice"),
    "a tile more in one CTA": (lambda t: [t[0], *t], "different numbers of tiles"),
    "no end": (lambda t: [*t[:3]], "does not end once"),
    "another group": (lambda t: [t[0]._replace(group=1), *t[1:]], "whether B is shared"),
    "both of another group": (
        lambda t: [each._replace(group=1) for each in t],
        "not each row once",
    ),
    "half of the k-blocks": (lambda t: [each._replace(k_count=1) for each in t], "k-blocks from 1 on"),
    "a gap in k": (lambda t: [each._replace(k_start=1, k_count=1) for each in t], "missing or twice, at 0"),
    "rows of nobody": (lambda t: [each._replace(row_end=120) for each in t], "not each row once"),
    "rows twice": (lambda t: [each._replace(row=each.row // 2) for each in t], "come twice"),
    "disagreement": (lambda t: [t[0]._replace(index=5), *t[1:]], "differ in index"),
    "a CTA without a word": (lambda t: t[:2], "1 CTAs were handed something, 2 are launched"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_kernel_cannot_bear_is_seen(case: str) -> None:
    change, message = WRONG[case]
    tiles = change(RIGHT)
    schedule = Schedule(Extents(100, 64, 2), (64, 64), (2, 1, 1), (2, 1, 1), tiles, None)  # type: ignore[arg-type]
    if not message:
        assert_each_tile_once(schedule, [Rows(0, 0, 0, 100)])
        return
    with pytest.raises(AssertionError, match=message):
        assert_each_tile_once(schedule, [Rows(0, 0, 0, 100)])


def test_testing_imports_no_dsl() -> None:
    program = "import sys, cute_gemm.testing; sys.exit('cutlass' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("base", "cluster_mnk", "grouping"),
    [
        (DenseScheduler, (1, 1, 1), ()),
        (SplitKScheduler, (1, 1, 2), ()),
        (MGroupedContiguousScheduler, (1, 1, 1), ([0] * 256,)),
        (MGroupedMaskedScheduler, (1, 1, 1), ([256],)),
        (MGroupedOffsetsScheduler, (1, 1, 1), ([256], 1)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_schedulers_of_the_package_can_be_subclassed(
    base: Any, cluster_mnk: tuple[int, int, int], grouping: Any
) -> None:
    """What `to_params` makes is of the class that it is called on."""

    class Alone(base):
        def grid_shape(self) -> Any:
            return (1, 1, Int32(cluster_mnk[2]))

    schedule = walk(Alone, Extents(256, 128, 4), grouping, cluster_mnk=cluster_mnk)
    assert schedule.grid == (1, 1, cluster_mnk[2])
    if cluster_mnk[2] == 1:
        assert_each_tile_once(schedule, [Rows(0, 0, 0, 256)])
