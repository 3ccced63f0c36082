"""Kernels whose epilogues reduce over columns: who has what of a tile, and which tiles there are."""

from __future__ import annotations

import functools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cute_gemm import (
    epilogue,
)
from cute_gemm.kernels.epilogue import ChainedValue, ClusterByteStore, Place, QuantizedValue
from cute_gemm.kernels.epilogue.function_value import FunctionValue, GatedValue
from cute_gemm.plan import cost_model
from cute_gemm.plan.buildable import why_unbuildable
from cute_gemm.plan.candidates import all_configs, every_reducing_config, is_candidate
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import DENSE, LAYOUTS, Layout
from cute_gemm.plan.limits import QUANTIZED
from cute_gemm.plan.problem import GemmProblem

QUANTIZE = epilogue.quantize_1x128()

# Which thread has what


def places_of(first_column: int, thread: int) -> Any:
    return Place(0, first_column, 64, 0, 0, thread)  # type: ignore[arg-type]


@pytest.mark.parametrize("turn", [8, 128])
def test_a_thread_has_both_columns_of_what_it_makes(turn: int) -> None:
    """And a quad of lanes has the 128 columns of a row that share a scale."""
    value, seen = GatedValue(((lambda gate, up: gate, ()),), turn), {}
    for thread in range(128):
        place = places_of(512, thread)
        sums = [(place.row_of(i), place.column_of(i)) for i in range(128)]
        made = place.made_by(value)
        for i in range(64):
            row, column = made.row_of(i), made.column_of(i)
            gate, up = value.given(sums, i)  # type: ignore[arg-type]
            assert gate == (row, 2 * turn * (column // turn) + column % turn)
            assert up == (row, gate[1] + turn)
            assert (row, column) not in seen
            seen[row, column] = thread
    assert seen.keys() == {(row, column) for row in range(64) for column in range(256, 384)}
    for row in range(64):
        assert len({seen[row, column] // 4 for column in range(256, 384)}) == 1


def test_values_behind_each_other_take_whole_units() -> None:
    first, gated, last = FunctionValue(()), GatedValue(((lambda x, y: x, ()),)), QuantizedValue(False)
    chain = ChainedValue(ChainedValue(first, gated), last)
    assert chain.unit == 256
    assert chain.out_columns(512) == 256
    assert chain.tensors == 2
    assert chain.part == 16
    assert ChainedValue(first, last).unit == 128
    assert ChainedValue(first, last).part == 8
    assert ChainedValue(GatedValue(((lambda x, y: x, ()),), 128), last).part == 256
    assert ChainedValue(gated, first).unit == 16


def test_a_tile_of_few_rows_ends_before_those_that_are_multiplied() -> None:
    """Nor do rows of the next tile or of another group get what this one makes of them."""
    for height, row, row_end, end in (
        (16, 32, 200, 48),
        (16, 32, 40, 40),
        (16, 48, 32, 32),
        (8, 0, 5, 5),
        (64, 64, 200, 200),
        (128, 128, 150, 150),
    ):
        tile = SimpleNamespace(row=row, row_end=row_end, m_group=2, group=3)
        place = Place.of(tile, height, (row, 0), 0)  # type: ignore[arg-type]
        assert place.row_end == end
        assert place.moved(64, 8).row_end == end


# Which kernels there are

OUTS = [(QUANTIZED, 1), (QUANTIZED, 2), ("bfloat16", 2), ("float32", 2)]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
@pytest.mark.parametrize("out", OUTS, ids=str)
def test_every_problem_has_a_kernel(layout: Layout, out: tuple[str, int]) -> None:
    out_dtype, narrowing = out
    for m in (1, 64, 65, 128, 300, 4096, 16384):
        for n, k in ((32, 16), (576, 7168), (4096, 7168)):
            groups = 1 if layout is DENSE else 8
            problem = GemmProblem(
                m, n, k, out_dtype, layout=layout, groups=groups, batch_invariant=m > 128, narrowing=narrowing
            )
            config = cost_model.best(problem)
            assert is_candidate(problem, config)
            assert config.splits == 1 or (layout is DENSE and config.is_quantized and m <= 128)
            assert config.out_dtype == out_dtype
            assert config.narrowing == narrowing


def test_a_tile_or_those_of_a_cluster_have_all_columns_of_a_scale() -> None:
    for config in every_reducing_config():
        assert not why_unbuildable(config)
        assert config.block_n == config.narrowing * config.out_n
        if config.is_quantized and config.out_n % 128:
            assert config.out_n * config.cluster_n == config.out_n * config.scale_ctas == 128
            assert config.cluster_m == config.splits == config.m_fragments == 1
            assert config.epi_n == config.out_n
        elif config.is_quantized:
            assert config.scale_ctas == config.splits
            assert config.epi_n == (128 if config.splits == 1 else config.block_n)
        else:
            assert config.scale_ctas == 1
        if config.splits > 1:
            assert config.is_quantized
            assert config.layout is DENSE
            assert config.narrowing == 1
    assert len({config.name for config in every_reducing_config()}) == len(every_reducing_config())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (KernelConfig(128, 192, 4, epi_n=128, out_dtype=QUANTIZED), "has 192 columns of sums and 1 for each"),
        (KernelConfig(128, 128, 4, epi_n=128, out_dtype=QUANTIZED, narrowing=2), "wanted 256 or a multiple"),
        (
            KernelConfig(128, 128, 4, epi_n=64, out_dtype=QUANTIZED),
            "epi_n is 64; wanted 128, the columns of D",
        ),
        (
            KernelConfig(64, 64, 4, epi_n=32, cluster_n=2, out_dtype=QUANTIZED, narrowing=2),
            "share a scale; or of D 64 in clusters of 1 x 2, 32 in clusters of 1 x 4",
        ),
        (
            KernelConfig(64, 64, 4, epi_n=64, cluster_m=2, cluster_n=2, out_dtype=QUANTIZED),
            "share a scale; or of D 64 in clusters of 1 x 2",
        ),
        (
            KernelConfig(64, 32, 4, epi_n=16, cluster_n=8, out_dtype=QUANTIZED, narrowing=2),
            "share a scale; or of D 64 in clusters of 1 x 2",
        ),
        (
            KernelConfig(64, 64, 4, epi_n=16, cluster_n=2, out_dtype=QUANTIZED),
            "epi_n is 16; wanted 64, the columns of D",
        ),
        (
            KernelConfig(128, 128, 4, epi_n=128, splits=2, out_dtype=QUANTIZED),
            "D is quantised, and a tile has 128 rows and 128 columns of D; wanted at most 64 and 128",
        ),
        (
            KernelConfig(64, 128, 4, epi_n=128, splits=3, out_dtype=QUANTIZED),
            "3 CTAs add up 128 columns, and D is quantised; wanted as many each, a multiple of 8",
        ),
        (
            KernelConfig(128, 96, 4, epi_n=32, narrowing=2),
            "epi_n is 32, which does not divide the columns of D",
        ),
        (
            KernelConfig(128, 128, 4, epi_n=32, epi_stages=1, narrowing=2),
            "epi_stages is 1; wanted at least 2",
        ),
        (KernelConfig(128, 128, 4, narrowing=0), "narrowing is 0; wanted at least 1"),
    ],
)
def test_what_cannot_be_built_is_named(config: KernelConfig, message: str) -> None:
    assert message in why_unbuildable(config)


def test_k_blocks_of_few_rows_that_are_quantised_are_shared_out() -> None:
    """But not where a row must not depend on M."""
    problem = GemmProblem(64, 4096, 7168, QUANTIZED)
    assert cost_model.best(problem).splits > 1
    assert cost_model.best(replace(problem, batch_invariant=True)).splits == 1
    assert cost_model.best(replace(problem, m=4096)).splits == 1


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
def test_columns_of_a_scale_are_spread_over_ctas_where_there_are_few_tiles(layout: Layout) -> None:
    """Sums are whole, so also where a row must not depend on M; but gate and up must be in one CTA."""
    groups = 1 if layout is DENSE else 2
    problem = GemmProblem(64 * groups, 4096, 7168, QUANTIZED, layout=layout, groups=groups, narrowing=2)
    for each in (problem, replace(problem, batch_invariant=True)):
        config = cost_model.best(each)
        assert (config.splits, config.scale_ctas * config.out_n) == (1, 128)
        assert config.scale_ctas > 1
    assert cost_model.best(replace(problem, turn=128)).scale_ctas == 1
    narrow = replace(problem, narrowing=1, n=1024, batch_invariant=True)
    assert cost_model.best(narrow).scale_ctas > 1


def test_64_rows_that_are_quantised_choose_the_tile_of_bf16_where_its_cluster_has_a_scale() -> None:
    problem = GemmProblem(64, 4096, 7168, QUANTIZED, narrowing=2)
    config = cost_model.best(problem)
    plain = cost_model.best(replace(problem, out_dtype="bfloat16"))
    assert (config.block_m, config.block_n, config.cluster_n) == (64, 64, 4)
    assert (plain.block_m, plain.block_n, plain.cluster_n) == (64, 64, 4)
    more = cost_model.predict(problem, config).cost_us - cost_model.predict(problem, plain).cost_us
    assert 0 < more < 1
    assert cost_model.best(replace(problem, m=4096)).scale_ctas == 1


def test_each_column_is_added_up_by_one_cta_that_may_ask_the_others() -> None:
    for config in every_reducing_config():
        if config.splits == 1:
            continue
        gated = [GatedValue(((lambda x, y: x, ()),))] if config.narrowing == 2 else []
        value = functools.reduce(ChainedValue, [*gated, QuantizedValue(False)])
        store = ClusterByteStore.of(config, None).taking(value)  # type: ignore[arg-type]
        columns = 8 * store.per_cta
        assert columns % value.part == 0
        assert columns * (config.splits - 1) < config.block_n <= columns * config.splits
        # One scale a row: CTAs meet once.
        assert value.out_columns(config.block_n) == 128
    store = ClusterByteStore(256, 2, 1, None)  # type: ignore[arg-type]
    by_turns = ChainedValue(GatedValue(((lambda x, y: x, ()),), 128), QuantizedValue(False))
    with pytest.raises(AssertionError, match="none for some of 2 CTAs"):
        store.taking(by_turns)


def test_plain_problems_choose_what_they_chose() -> None:
    plain = all_configs("bfloat16", DENSE)
    assert all(config.narrowing == 1 and not config.is_quantized for config in plain)
    assert not set(plain) & set(every_reducing_config())
