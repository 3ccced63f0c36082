"""How math threads come by the scales of their rows, run on the host.

A shuffle among lanes cannot be: there, ``from_quad`` adds to what a lane holds the distance of the lane that
is asked. The scale of k-block k is k here, so that this gives what the other lane would.
"""

from dataclasses import dataclass
from math import gcd
from types import SimpleNamespace

import cutlass
import cutlass.cute as cute
import pytest
import torch
from cutlass import Float32, Int32
from cutlass.cute.runtime import from_dlpack
from levels import cases

from cute_gemm.kernels.scaling import scaling_1d2d, staged
from cute_gemm.kernels.scaling.columns import GROUP, ColumnScales, ScaleColumns
from cute_gemm.kernels.scaling.staged import StagedFeed
from cute_gemm.plan.config import KernelConfig

TILES = 2
MOST = 18


@dataclass(frozen=True)
class Tile:
    """What a feed asks of a tile; its k-blocks are the last ``k_count`` of all."""

    n_tile: Int32
    group: Int32
    k_start: Int32
    k_count: Int32


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged, "from_quad", lambda value, lane: value + Float32(lane))


# 192 columns take one or two scales of B; two fragments of 128 side by side one each.
CONFIGS = [
    KernelConfig(128, 192, stages=4, tma_scales=True),
    KernelConfig(128, 256, stages=3, tma_scales=True, n_fragments=2),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
@pytest.mark.parametrize("in_groups", [False, True], ids=["one by one", "by groups"])
@pytest.mark.parametrize("k_count", cases([*range(1, 10), MOST], usual=(1, 5, MOST)))
def test_the_scales_of_b_are_those_of_the_k_block(
    k_count: int, in_groups: bool, config: KernelConfig, lanes: None
) -> None:
    """In a tile after another, whose next group was fetched and never used; A's are 1 and, 8 rows on, 2."""

    scaling = scaling_1d2d(config)

    @cute.jit
    def run(sfb: cute.Tensor, sfa: cute.Tensor, out: cute.Tensor):
        columns = ColumnScales(
            cute.make_tensor(sfb.iterator, cute.make_layout((2, MOST, 1), stride=(MOST, 1, 0))),
            scaling.columns,
            lane_k=Int32(0),
            offset=cute.make_rmem_tensor((2,), Int32),
            fetched=cute.make_rmem_tensor((2,), Float32),
        )
        sSFA = cute.make_tensor(sfa.iterator, cute.make_layout((16, 1, 1)))
        registers = (cute.make_rmem_tensor((2,), Float32) for _ in range(2))
        feed = StagedFeed(scaling, sSFA, columns, *registers)
        tile = Tile(Int32(0), Int32(0), Int32(MOST - k_count), Int32(k_count))
        for nth in cutlass.range_constexpr(TILES):
            feed.start(tile)
            feed.begin(tile)
            whole = k_count // GROUP * GROUP if cutlass.const_expr(in_groups) else 0
            for k in cutlass.range(0, whole, GROUP, unroll=1):
                for i in cutlass.range_constexpr(GROUP):
                    note(feed, tile, out, nth, k + i, i)
            for k in cutlass.range(whole, k_count, unroll=1):
                note(feed, tile, out, nth, k, k % GROUP)

    sfb = torch.stack([torch.arange(MOST), 100 + torch.arange(MOST)]).float()
    sfa = torch.tensor([1.0] * 8 + [2.0] * 8)
    out = torch.full((TILES, k_count, 4), torch.nan)
    arguments = [from_dlpack(x) for x in (sfb, sfa, out)]
    cute.compile(run, *arguments)(*arguments)

    first = torch.arange(MOST - k_count, MOST).float()
    expected = torch.stack([first, 100 + first, 2 * first, 2 * (100 + first)], dim=1)
    assert torch.equal(out, expected.expand(out.shape))


@cute.jit
def note(feed, tile, out: cute.Tensor, nth: int, k: Int32, place):
    """Asks for the scales of the next k-block, and writes them down: two row halves of two blocks of B."""
    (halves,) = feed.hand_out(feed.read(SimpleNamespace(index=Int32(0))), tile, k, place)
    for i, value in enumerate([value for half in halves for value in half]):
        out[nth, k, i] = value


def of_blocks(block_n: int, n_tile: int, n_fragments: int = 1) -> list[list[int]]:
    """The scale block of each column of each fragment of a tile, where blocks are 128 wide."""
    fragment_n = block_n // n_fragments
    first = n_tile * block_n
    return [
        [(first + n * fragment_n + column) // 128 for column in range(fragment_n)] for n in range(n_fragments)
    ]


# Wider ones may cover three blocks, which candidates.can_be_built rules out.
WIDTHS = [n for n in range(16, 200, 8) if n <= 128 + gcd(n, 128)]


@pytest.mark.parametrize(
    ("block_n", "n_fragments"), [*((n, 1) for n in WIDTHS), *((2 * n, 2) for n in WIDTHS)]
)
def test_each_column_takes_the_scale_of_its_block(block_n: int, n_fragments: int) -> None:
    """What a feed loads for a fragment, and from which of its columns on promotion takes the second."""
    config = KernelConfig(128, block_n, stages=4, n_fragments=n_fragments)
    scaling = scaling_1d2d(config)
    columns = scaling.columns
    for n_tile in range(16):
        expected = of_blocks(block_n, n_tile, n_fragments)
        for n, blocks in enumerate(expected):
            loaded = [columns.row(n_tile, n * columns.per_fragment + b) for b in range(columns.per_fragment)]
            split = len(blocks)
            if columns.per_fragment == 2:
                split = (
                    scaling.of_fragment.split(n_tile * block_n + n * config.fragment_n) * config.scale_group_n
                )
            assert [loaded[0] if i < split else loaded[1] for i in range(len(blocks))] == blocks
        # What is asked for ahead.
        asked = {columns.row(n_tile, 0) + i for i in range(columns.blocks)}
        assert asked >= {block for blocks in expected for block in blocks}


def test_a_tile_takes_as_many_scales_as_it_may_cover_blocks() -> None:
    assert ScaleColumns(256, 128, 128, per_fragment=1).blocks == 2
    assert ScaleColumns(192, 192, 128, per_fragment=2).blocks == 2
    assert ScaleColumns(64, 64, 128, per_fragment=1).blocks == 1
