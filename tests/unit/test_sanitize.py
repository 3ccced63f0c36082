"""What compute-sanitizer is shown: all kinds of kernels, in products that give races a chance."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from calls import every_grouped_layout, every_layout, grouped_layouts

from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import DENSE, Layout
from cute_gemm.plan.limits import OUT_BYTES, ceil_div

sys.path.append(str(Path(__file__).parents[1] / "gpu"))
sanitize = importlib.import_module("sanitize")
RULY = sanitize.DENSE_CASES | sanitize.GROUPED_CASES
CASES = list(RULY.values())
JUDGED = RULY | sanitize.VALUES

every_case = pytest.mark.parametrize("case", JUDGED.values(), ids=list(JUDGED))


def cases_of(layout: Layout) -> list[Any]:
    return [case for case in CASES if case.config.layout is layout]


def clusters(case: Any) -> tuple[int, int]:
    """How many clusters' worth of tiles the result has, along M and along N."""
    config = case.config
    blocks = sum(ceil_div(size, config.block_m) for size in case.sizes)
    return ceil_div(blocks, config.cluster_m), ceil_div(case.n, config.block_n * config.cluster_n)


def tiles_of_a_cta(case: Any) -> int:
    """How many tiles even the least busy CTA comes by."""
    if case.config.splits > 1:
        return 1
    along_m, along_n = clusters(case)
    return along_m * along_n // max(1, sanitize.NUM_SMS // case.config.cluster_size)


def store_chunks(config: KernelConfig) -> int:
    return config.m_fragments * config.block_n // config.epi_n


@every_case
def test_a_cta_comes_by_several_tiles(case: Any) -> None:
    """So that store buffers are filled again for the next tile, and rings go on from one to the other.

    Where k-blocks are shared out, a CTA has one tile.
    """
    assert tiles_of_a_cta(case) >= 2 or case.config.splits > 1


@every_case
def test_rings_go_round_twice(case: Any) -> None:
    """Once for a stage to be filled again, once more for the phases of its barriers to return."""
    k_blocks = ceil_div(case.k, case.config.block_k) // case.config.splits
    assert tiles_of_a_cta(case) * k_blocks > 2 * case.config.stages


def goes_by_groups_and_passes_over(case: Any) -> bool:
    """Whether a tile has a whole group of four k-blocks, and stages that hold nothing behind its last."""
    config, k_blocks = case.config, ceil_div(case.k, case.config.block_k)
    return config.partial_accumulators == 1 and config.stages % 4 == 0 and k_blocks > 4 and k_blocks % 4 > 0


@every_layout
def test_some_rings_are_gone_through_by_groups(layout: Layout) -> None:
    assert any(goes_by_groups_and_passes_over(case) for case in cases_of(layout))


@every_case
def test_tiles_are_ragged_every_way(case: Any) -> None:
    config = case.config
    assert any(size % config.block_m for size in case.sizes)
    assert case.n % config.block_n
    assert case.k % case.config.block_k


@every_case
def test_cases_are_small(case: Any) -> None:
    """racecheck takes a thousand times as long as the kernel.

    Three CTAs that each go round a ring of seven stages twice need 135.
    """
    along_m, along_n = clusters(case)
    assert along_m * along_n * case.config.cluster_size * ceil_div(case.k, case.config.block_k) <= 136


@every_layout
def test_all_kinds_of_kernels_are_shown(layout: Layout) -> None:
    configs = [config for out_dtype in OUT_BYTES for config in candidates.all_configs(out_dtype, layout)]
    shown = [case.config for case in cases_of(layout)]
    assert {config.block_m for config in shown} == {config.block_m for config in configs}
    assert {config.out_dtype for config in shown} == set(OUT_BYTES)
    every = [config for config in candidates.every_config() if config.layout is layout]
    assert {config.tma_scales for config in shown} == {config.tma_scales for config in every}
    # The loop with one partial accumulator and one math warpgroup is of groups alone.
    loops, wanted = ({(c.partial_accumulators, c.math_warpgroups) for c in of} for of in (shown, configs))
    assert loops == wanted


def test_all_kinds_of_main_loops_and_stores_are_shown() -> None:
    """Which do not ask for the layout."""
    configs = [config for out_dtype in OUT_BYTES for config in candidates.all_configs(out_dtype)]
    kinds = [
        lambda config: (config.partial_accumulators, config.straddles),
        lambda config: (config.cluster_m, config.cluster_n),
        lambda config: (config.out_dtype, config.math_warpgroups),
        lambda config: (config.out_dtype, config.cluster_size > 1),
        lambda config: (config.block_m, config.splits > 1),
        lambda config: (config.out_dtype, config.splits > 1),
    ]
    staged = [
        lambda config: config.m_fragments,
        lambda config: config.straddles,
        lambda config: config.splits > 1,
    ]
    for kind in kinds:
        assert {kind(case.config) for case in cases_of(DENSE)} == {kind(config) for config in configs}
    configs = [config for config in candidates.every_config() if config.tma_scales and config.layout is DENSE]
    for kind in staged:
        shown = {kind(case.config) for case in cases_of(DENSE) if case.config.tma_scales}
        assert shown == {kind(config) for config in configs}


@every_grouped_layout
def test_groups_of_all_kinds_are_shown(layout: Layout) -> None:
    """Clusters along both ways where there are any, empty groups, and tiles with all and with some rows."""
    configs = [config for out_dtype in OUT_BYTES for config in candidates.all_configs(out_dtype, layout)]
    cases = cases_of(layout)
    for name in ("cluster_m", "cluster_n"):
        wanted = max(getattr(config, name) for config in configs)
        assert wanted in {getattr(case.config, name) for case in cases}
    for case in cases:
        block = case.config.block_m
        assert 0 in case.sizes
        assert any(size >= block for size in case.sizes)
        assert any(size % block for size in case.sizes)


@pytest.mark.parametrize("title", ["offsets, 128, fp32, multicast of B", "masked, 256, fp32, multicast of B"])
def test_the_second_cta_of_a_cluster_may_have_no_row(title: str) -> None:
    config, sizes, *_ = sanitize.CASES[title]
    assert config.cluster_m == 2
    assert sum(ceil_div(size, config.block_m) for size in sizes) % 2 == 1


def test_clusters_that_share_b_come_among_others() -> None:
    index = sanitize.grouped_inputs(sanitize.CASES["contiguous, 128, multicast of B"]).index.tolist()
    assert [index[row : row + 256 : 128] for row in range(0, len(index), 256)] == [[0, 2], [2, 2], [3]]


def test_every_layout_is_shown_an_index_that_breaks_its_rules() -> None:
    assert [case.config.layout for case in sanitize.UNRULY.values()] == grouped_layouts
    for case in sanitize.UNRULY.values():
        index = sanitize.grouped_inputs(case).index.tolist()
        assert min(index) < 0
        assert max(index) > 1000


def test_store_buffers_are_used_again_within_a_tile() -> None:
    assert sum(store_chunks(case.config) > case.config.epi_stages for case in CASES) >= 2


STRADDLING = [title for title, case in RULY.items() if case.config.straddles]


@pytest.mark.parametrize("title", STRADDLING)
def test_where_tiles_may_need_two_scales_of_b_some_do(title: str) -> None:
    config, _, n, *_ = RULY[title]
    tiles = [(first, min(first + config.block_n, n) - 1) for first in range(0, n, config.block_n)]
    scale_n = config.recipe.scale_n
    assert any(first // scale_n < last // scale_n for first, last in tiles)


def test_values_are_shown_in_every_store_and_side_by_side() -> None:
    """One that reads ahead of the main loop, and one that makes fewer columns."""
    cases = sanitize.VALUES.values()
    assert {type(case.value).__name__ for case in cases} == {"NoneType", "RowFactor", "SwiGlu"}
    factors = [case.config for case in cases if isinstance(case.value, sanitize.RowFactor)]
    assert {(c.layout.is_grouped, c.splits > 1) for c in factors} == {
        (False, False),
        (True, False),
        (False, True),
    }
    assert {(c.m_fragments, c.n_fragments) for c in factors} == {(1, 1), (2, 1), (1, 2)}


def test_importing_it_leaves_torch_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTORCH_NO_CUDA_MEMORY_CACHING", raising=False)
    importlib.reload(sanitize)
    assert "PYTORCH_NO_CUDA_MEMORY_CACHING" not in os.environ
