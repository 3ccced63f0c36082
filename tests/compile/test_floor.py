"""Kernels that the floor is measured by: all loads and stores of a product, and no multiplication."""

import pytest
from levels import cases

from cute_gemm import runtime
from cute_gemm.bench.peers import floor
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import DENSE, MASKED
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.runtime.inspection import KernelStats, read_cubin

PROBLEMS = [
    GemmProblem(64, 2112, 7168),
    GemmProblem(4096, 4096, 7168),
    GemmProblem(640, 4096, 7168, layout=MASKED, groups=8),
]


def stats(of: runtime.Program | KernelConfig) -> KernelStats:
    return read_cubin(runtime.cubin(of))


@pytest.mark.parametrize(
    "problem",
    cases(PROBLEMS, usual=PROBLEMS[2:]),
    ids=lambda problem: f"{problem.layout.name}, {problem.m} rows",
)
def test_a_floor_loads_and_stores_as_the_kernel_does(problem: GemmProblem) -> None:
    config = floor.kernels_of(problem)[0]
    whole, loads = stats(config), stats(floor.program(config))
    assert whole.count("QGMMA") > 0
    assert loads.count("QGMMA") == 0
    for code in ("UTMALDG", "UTMASTG"):
        assert loads.count(code) == whole.count(code)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: f"{problem.layout.name}, {problem.m} rows")
def test_a_floor_is_measured_over_tiles_clusters_and_splits(problem: GemmProblem) -> None:
    configs = floor.kernels_of(problem)
    assert len(configs) == len(set(configs)) > 5
    for name in ("block_n", "cluster_size", "stages"):
        assert len({getattr(config, name) for config in configs}) > 1
    assert (len({config.splits for config in configs}) > 1) == (problem.layout is DENSE and problem.m < 1000)
