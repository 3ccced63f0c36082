"""What compute-sanitizer is shown: all kinds of kernels, in products that give races a chance."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from cute_gemm import heuristics
from cute_gemm.problem import BLOCK_K, OUT_BYTES, KernelConfig, ceil_div

sys.path.append(str(Path(__file__).parents[1] / "gpu"))
sanitize = importlib.import_module("sanitize")
CASES = list(sanitize.CASES.values())
CONFIGS = [config for out_dtype in OUT_BYTES for config in heuristics.all_configs(out_dtype)]

every_case = pytest.mark.parametrize("case", CASES, ids=list(sanitize.CASES))


def clusters(case: Any) -> tuple[int, int]:
    """How many clusters' worth of tiles the result has, along M and along N."""
    config = case.config
    along_m = ceil_div(case.m, config.block_m * config.cluster_m)
    return along_m, ceil_div(case.n, config.block_n * config.cluster_n)


def tiles_of_a_cta(case: Any) -> int:
    """How many tiles even the least busy CTA comes by."""
    along_m, along_n = clusters(case)
    return along_m * along_n // max(1, sanitize.NUM_SMS // case.config.cluster_size)


def store_chunks(config: KernelConfig) -> int:
    return config.waves * config.block_n // config.epi_n


@every_case
def test_a_cta_comes_by_several_tiles(case: Any) -> None:
    """So that store buffers are filled again for the next tile, and rings go on from one to the other."""
    assert tiles_of_a_cta(case) >= 2


@every_case
def test_rings_go_round_twice(case: Any) -> None:
    """Once for a stage to be filled again, once more for the phases of its barriers to return."""
    assert tiles_of_a_cta(case) * ceil_div(case.k, BLOCK_K) > 2 * case.config.stages


@every_case
def test_tiles_are_ragged_every_way(case: Any) -> None:
    config = case.config
    assert case.m % config.block_m
    assert case.n % config.block_n
    assert case.k % BLOCK_K


@every_case
def test_cases_are_small(case: Any) -> None:
    """racecheck takes a thousand times as long as the kernel."""
    along_m, along_n = clusters(case)
    assert along_m * along_n * case.config.cluster_size * ceil_div(case.k, BLOCK_K) <= 128


def test_all_kinds_of_kernels_are_shown() -> None:
    kinds = [
        lambda config: config.block_m,
        lambda config: (config.temporaries, config.straddles),
        lambda config: (config.cluster_m, config.cluster_n),
        lambda config: (config.out_dtype, config.math_warpgroups),
        lambda config: (config.out_dtype, config.cluster_size > 1),
    ]
    for kind in kinds:
        assert {kind(case.config) for case in CASES} == {kind(config) for config in CONFIGS}


def test_store_buffers_are_used_again_within_a_tile() -> None:
    assert sum(store_chunks(case.config) > case.config.epi_stages for case in CASES) >= 2


STRADDLING = [title for title, case in sanitize.CASES.items() if case.config.straddles]


@pytest.mark.parametrize("title", STRADDLING)
def test_where_tiles_may_need_two_scales_of_b_some_do(title: str) -> None:
    config, _, n, _ = sanitize.CASES[title]
    tiles = [(first, min(first + config.block_n, n) - 1) for first in range(0, n, config.block_n)]
    assert any(first // BLOCK_K < last // BLOCK_K for first, last in tiles)


def test_importing_it_leaves_torch_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTORCH_NO_CUDA_MEMORY_CACHING", raising=False)
    importlib.reload(sanitize)
    assert "PYTORCH_NO_CUDA_MEMORY_CACHING" not in os.environ
