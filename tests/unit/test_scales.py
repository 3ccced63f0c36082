"""How math threads come by the scales of their rows, run on the host.

A shuffle among lanes cannot be: there, ``from_quad`` adds to what a lane holds the distance of the lane that
is asked. The scale of k-block k is k here, so that this gives what the other lane would.
"""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
import pytest
import torch
from cutlass import Float32, Int32
from cutlass.cute.runtime import from_dlpack

from cute_gemm.kernels import scaling as scales
from cute_gemm.kernels.scaling import GROUP, ColumnScales, StagedFeed

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
    monkeypatch.setattr(scales, "from_quad", lambda value, lane: value + Float32(lane))


@pytest.mark.parametrize("in_groups", [False, True], ids=["one by one", "by groups"])
@pytest.mark.parametrize("k_count", [*range(1, 10), MOST])
def test_the_scales_of_b_are_those_of_the_k_block(k_count: int, in_groups: bool, lanes: None) -> None:
    """In a tile after another, whose next group was fetched and never used; A's are 1 and, 8 rows on, 2."""

    @cute.jit
    def run(sfb: cute.Tensor, sfa: cute.Tensor, out: cute.Tensor):
        columns = ColumnScales(
            cute.make_tensor(sfb.iterator, cute.make_layout((2, MOST, 1), stride=(MOST, 1, 0))),
            lane_k=Int32(0),
            offset=cute.make_rmem_tensor((2,), Int32),
            fetched=cute.make_rmem_tensor((2,), Float32),
        )
        staged = cute.make_tensor(sfa.iterator, cute.make_layout((16, 1, 1)))
        registers = (cute.make_rmem_tensor((2,), Float32) for _ in range(2))
        feed = StagedFeed(staged, columns, *registers, waves=1)
        tile = Tile(Int32(0), Int32(0), Int32(MOST - k_count), Int32(k_count))
        for turn in cutlass.range_constexpr(TILES):
            feed.start(tile, 192)
            feed.begin(tile)
            whole = k_count // GROUP * GROUP if cutlass.const_expr(in_groups) else 0
            for k in cutlass.range(0, whole, GROUP, unroll=1):
                for i in cutlass.range_constexpr(GROUP):
                    note(feed, tile, out, turn, k + i, i)
            for k in cutlass.range(whole, k_count, unroll=1):
                note(feed, tile, out, turn, k, k % GROUP)

    sfb = torch.stack([torch.arange(MOST), 100 + torch.arange(MOST)]).float()
    sfa = torch.tensor([1.0] * 8 + [2.0] * 8)
    out = torch.full((TILES, k_count, 4), torch.nan)
    arguments = [from_dlpack(x) for x in (sfb, sfa, out)]
    cute.compile(run, *arguments)(*arguments)

    first = torch.arange(MOST - k_count, MOST).float()
    expected = torch.stack([first, 100 + first, 2 * first, 2 * (100 + first)], dim=1)
    assert torch.equal(out, expected.expand(out.shape))


@cute.jit
def note(feed, tile, out: cute.Tensor, turn: int, k: Int32, place):
    """Asks for the scales of the next k-block, and writes them down: two row halves of two blocks of B."""
    (halves,) = feed.hand_out(feed.read(Int32(0)), tile, k, place)
    for i, value in enumerate([value for half in halves for value in half]):
        out[turn, k, i] = value
