"""The scheduler that GPUs run, compiled for the CPU and walked for every CTA of a grid.

A scheduler asks where its CTA is by `cute.arch.block_idx` and `grid_dim`; those two alone are replaced. A
division by zero, of which a GPU makes a wrong number, ends the process here: "Floating point exception".
"""

from typing import Any, NamedTuple

import cutlass
import cutlass.cute as cute
import hypothesis.strategies as st
import pytest
import torch
from cutlass import Int32
from cutlass.cute.runtime import make_fake_tensor
from hypothesis import example, given, settings

from cute_gemm import cache, checks, heuristics, jit
from cute_gemm.problem import OUT_BYTES, KernelConfig, ceil_div
from cute_gemm.schedulers.dense import DenseScheduler

CONFIGS = [config for out_dtype in OUT_BYTES for config in heuristics.all_configs(out_dtype)]
USED = {((config.cluster_m, config.cluster_n), config.raster) for config in CONFIGS}
# Fixed when a kernel is compiled: ((CTAs of a cluster along M, along N), tiles of a band along M).
STATIC = sorted(USED | {((1, 1), 1), ((1, 1), 3), ((2, 1), 3), ((1, 2), 1), ((2, 2), 4)})


class Step(NamedTuple):
    """A tile as one CTA sees it. `cluster` and `x`, `y` say which CTA: its cluster, and where it is in it."""

    cluster: int
    x: int
    y: int
    index: int
    m_tile: int
    n_tile: int
    group: int
    k_start: int
    k_count: int
    is_valid: int


class Call(NamedTuple):
    m: int
    n: int
    k_blocks: int
    num_sms: int
    block_m: int
    block_n: int


FIELDS = len(Step._fields)
TABLE = torch.zeros(1 << 15, FIELDS, dtype=torch.int32)


class Walk:
    """Writes down the grid, then what every CTA of it is told, up to and including the end."""

    def __init__(self, cluster_mn: tuple[int, int], raster: int) -> None:
        self.cluster_mn, self.raster = cluster_mn, raster
        self.key, self.integers = ("walk", cluster_mn, raster), len(Call._fields)

    @cute.jit
    def __call__(
        self,
        out: cute.Tensor,
        m: Int32,
        n: Int32,
        k_blocks: Int32,
        sms: Int32,
        block_m: Int32,
        block_n: Int32,
    ):
        scheduler = DenseScheduler.to_params(
            m, n, k_blocks, sms, block_mn=(block_m, block_n), cluster_mn=self.cluster_mn, raster=self.raster
        )
        grid = scheduler.grid_shape()
        for i in cutlass.range_constexpr(3):
            out[0, i] = Int32(grid[i])
        row = Int32(1)
        for cluster in cutlass.range(grid[2], unroll=1):
            for x in cutlass.range_constexpr(self.cluster_mn[0]):
                for y in cutlass.range_constexpr(self.cluster_mn[1]):
                    take_place(x, y, cluster, grid[2])
                    tile = scheduler.initial_work()
                    row = write(out, row, tile, cluster, x, y)
                    while tile.is_valid:
                        tile = scheduler.advance(tile)
                        row = write(out, row, tile, cluster, x, y)
        out[0, 3] = row


@cute.jit
def write(out, row, tile, cluster, x, y):
    place = (cluster, x, y, tile.index, tile.m_tile, tile.n_tile)
    step = (*place, tile.group, tile.k_start, tile.k_count, tile.is_valid)
    if row < out.shape[0]:
        for i in cutlass.range_constexpr(FIELDS):
            out[row, i] = Int32(step[i])
    return row + 1


def take_place(x: int, y: int, cluster: Int32, clusters: Int32) -> None:
    cute.arch.block_idx = lambda: (Int32(x), Int32(y), cluster)
    cute.arch.grid_dim = lambda: (None, None, clusters)


def compiled(host_function: Any) -> Any:
    def build() -> Any:
        out = make_fake_tensor(
            Int32, (cute.sym_int32(), FIELDS), (FIELDS, 1), memspace=cute.AddressSpace.generic
        )
        return host_function, (out, *(Int32(0) for _ in range(host_function.integers)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.DIRECTORY_VARIABLE, "")
        patch.setattr(cute.arch, "block_idx", cute.arch.block_idx)
        patch.setattr(cute.arch, "grid_dim", cute.arch.grid_dim)
        return jit.instance(host_function.key, build, "a schedule")


def walk(cluster_mn: tuple[int, int], raster: int, call: Call) -> tuple[tuple[int, ...], list[Step]]:
    """The grid, and the steps of all its CTAs, CTA by CTA."""
    compiled(Walk(cluster_mn, raster))(TABLE, *call)
    *grid, rows = TABLE[0, :4].tolist()
    assert rows <= len(TABLE), "choose smaller examples"
    return tuple(grid), [Step(*row) for row in TABLE[1:rows].tolist()]


def check(cluster_mn: tuple[int, int], raster: int, call: Call) -> None:
    grid, steps = walk(cluster_mn, raster, call)
    m_tiles, n_tiles = ceil_div(call.m, call.block_m), ceil_div(call.n, call.block_n)
    # Clusters are whole: where they do not divide the output, some of their tiles lie beyond it.
    reach = [ceil_div(tiles, size) * size for tiles, size in zip((m_tiles, n_tiles), cluster_mn, strict=True)]
    size = cluster_mn[0] * cluster_mn[1]
    total = reach[0] * reach[1] // size
    assert grid == (*cluster_mn, min(total, max(1, call.num_sms // size)))

    assert all(step.m_tile >= 0 and step.n_tile >= 0 for step in steps), "negative coordinates"
    valid = [step for step in steps if step.is_valid]
    tiles = sorted((step.m_tile, step.n_tile) for step in valid)
    assert tiles == [(i, j) for i in range(reach[0]) for j in range(reach[1])], "not each tile once"

    ctas: dict[tuple[int, int, int], list[Step]] = {}
    for step in steps:
        ctas.setdefault((step.cluster, step.x, step.y), []).append(step)
    assert len(ctas) == grid[0] * grid[1] * grid[2]
    for seen in ctas.values():
        assert [step.is_valid for step in seen] == [1] * (len(seen) - 1) + [0], "not ended once"
    lengths = [len(seen) for seen in ctas.values()]
    assert max(lengths) - min(lengths) <= 1, "some CTA has two tiles more than another"

    # The CTAs of a cluster go side by side, tile by tile: they share operands, and count the same k-blocks.
    for (cluster, x, y), seen in ctas.items():
        for step, first in zip(seen, ctas[cluster, 0, 0], strict=True):
            assert (step.m_tile, step.n_tile) == (first.m_tile + x, first.n_tile + y)
            assert (step.index, step.is_valid) == (first.index, first.is_valid)
            assert (step.group, step.k_start, step.k_count) == (0, 0, call.k_blocks)


CALLS = st.builds(
    Call,
    m=st.integers(1, 2200),
    n=st.integers(1, 160).map(lambda n: 8 * n),
    k_blocks=st.integers(1, 200),
    num_sms=st.integers(1, 160),
    block_m=st.sampled_from([64, 128, 256]),
    block_n=st.integers(2, 16).map(lambda n: 16 * n),
)


@pytest.mark.parametrize(("cluster_mn", "raster"), STATIC, ids=str)
@settings(max_examples=40, deadline=None)
# Whole bands, after which no row of tiles remains; and one that is cut short.
@example(Call(m=2048, n=512, k_blocks=4, num_sms=132, block_m=64, block_n=64))
@example(Call(m=900, n=512, k_blocks=4, num_sms=132, block_m=64, block_n=64))
@example(Call(m=1, n=8, k_blocks=1, num_sms=1, block_m=256, block_n=192))
@given(call=CALLS)
def test_every_tile_comes_once(cluster_mn: tuple[int, int], raster: int, call: Call) -> None:
    check(cluster_mn, raster, call)


def test_tiles_are_walked_in_bands() -> None:
    """Three rows of tiles at a time, column by column; what remains is a narrower band."""
    _, steps = walk((1, 1), 3, Call(m=5 * 64, n=4 * 64, k_blocks=1, num_sms=1, block_m=64, block_n=64))
    order = {(step.m_tile, step.n_tile): step.index for step in steps if step.is_valid}
    assert [[order[i, j] for j in range(4)] for i in range(5)] == [
        [0, 3, 6, 9],
        [1, 4, 7, 10],
        [2, 5, 8, 11],
        [12, 14, 16, 18],
        [13, 15, 17, 19],
    ]


class Edge:
    """Writes down the last tiles of a schedule too long to be walked, as the CTAs of a cluster see them, and
    what they are told after them: tile, its first row and column as a kernel counts them, and whether it is
    one."""

    def __init__(self, cluster_mn: tuple[int, int], raster: int) -> None:
        self.cluster_mn, self.raster = cluster_mn, raster
        self.key, self.integers = ("edge", cluster_mn, raster), 4

    @cute.jit
    def __call__(self, out: cute.Tensor, m: Int32, n: Int32, block_m: Int32, block_n: Int32):
        scheduler = DenseScheduler.to_params(
            m,
            n,
            Int32(1),
            Int32(132),
            block_mn=(block_m, block_n),
            cluster_mn=self.cluster_mn,
            raster=self.raster,
        )
        last = scheduler.m_clusters * scheduler.n_clusters - 1
        row = 0
        for i in cutlass.range_constexpr(2):
            for x in cutlass.range_constexpr(self.cluster_mn[0]):
                for y in cutlass.range_constexpr(self.cluster_mn[1]):
                    tile = scheduler.work(last + i, Int32(x), Int32(y))
                    out[row, 0], out[row, 1] = tile.m_tile * block_m, tile.n_tile * block_n
                    out[row, 2] = Int32(tile.is_valid)
                    row += 1


@pytest.mark.parametrize(("m", "n"), [(checks.MAX_EXTENT, 8), (1, checks.MAX_EXTENT // 8 * 8)])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_the_largest_extents_do_not_overflow(config: KernelConfig, m: int, n: int) -> None:
    """Not even in the CTAs of the last cluster whose tiles lie beyond the output."""
    cluster_mn, block_mn = (config.cluster_m, config.cluster_n), (config.block_m, config.block_n)
    out = torch.zeros(2 * config.cluster_size, FIELDS, dtype=torch.int32)
    compiled(Edge(cluster_mn, config.raster))(out, m, n, *block_mn)
    ends = [
        ceil_div(extent, block * ctas) * block * ctas
        for extent, block, ctas in zip((m, n), block_mn, cluster_mn, strict=True)
    ]
    # A thread adds the place of its element in the tile.
    assert max(ends) <= 2**31
    firsts = [
        [ends[0] - (cluster_mn[0] - x) * block_mn[0], ends[1] - (cluster_mn[1] - y) * block_mn[1]]
        for x in range(cluster_mn[0])
        for y in range(cluster_mn[1])
    ]
    # After the last tile comes no other, but the same one again.
    assert out[:, :2].tolist() == firsts * 2
    assert out[:, 2].tolist() == [1] * config.cluster_size + [0] * config.cluster_size
