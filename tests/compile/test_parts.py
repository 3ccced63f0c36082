"""Parts of a user's own in place of this package's: values, a scaling, a mainloop; fragments side by side.

They are of tests/gpu/parts.py, as users have theirs in files. What comes out is in tests/gpu/test_values.py.
Of each kind some are compiled, with `--exhaustive` all.
"""

import sys
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cute_gemm import runtime
from cute_gemm.kernels.epilogue import IDENTITY, Identity
from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import CONTIGUOUS, DENSE, MASKED, OFFSETS
from cute_gemm.plan.limits import STATIC_SMEM
from cute_gemm.runtime.inspection import KernelStats, read_cubin
from cute_gemm.schedulers.k_grouped import KGroupedAddingScheduler, KGroupedScheduler

sys.path.append(str(Path(__file__).parents[1] / "gpu"))
from parts import Bias, NoScales, RowFactor, SimpleMainloop, SwiGlu, pick, program

SIDE_BY_SIDE = KernelConfig(128, 256, stages=4, n_fragments=2, epi_n=64, raster_width=16)


def stats_of(config: KernelConfig, value: Any) -> KernelStats:
    return read_cubin(runtime.cubin(program(config, value)))


def spills(stats: KernelStats) -> tuple[int, int, int]:
    return stats.stack_bytes, stats.local_loads, stats.local_stores


STORES = {
    "tma": pick(DENSE, block_m=128, block_n=128, tma_scales=False),
    "tma, fp32": pick(DENSE, "float32", block_m=128, block_n=192, tma_scales=False),
    "tma, two m-fragments": pick(DENSE, block_m=256, block_n=128, tma_scales=True),
    "tma, 64 rows": pick(DENSE, block_m=64, block_n=64, splits=1),
    "tma, side by side": SIDE_BY_SIDE,
    "rows": pick(OFFSETS, block_m=128, block_n=192),
    "rows, matrices": pick(MASKED, block_m=64, block_n=128),
    "rows, padding": pick(CONTIGUOUS, "float32", block_m=128, block_n=128, cluster_m=2),
    "rows, side by side": replace(SIDE_BY_SIDE, layout=MASKED, stages=3),
    "cluster": pick(DENSE, block_m=64, block_n=64, splits=2),
    "cluster, two warpgroups": pick(DENSE, "float32", block_m=128, block_n=64, splits=3),
}


FEW = "tma, two m-fragments", "rows, side by side", "rows, matrices", "cluster"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names, all_of = metafunc.fixturenames, metafunc.config.getoption("exhaustive")
    if "name" in names:
        metafunc.parametrize("name", [name for name in STORES if all_of or name in FEW])
    if "side_by_side" in names:
        configs = FRAGMENTS if all_of else FRAGMENTS[:3]
        metafunc.parametrize("side_by_side", configs, ids=lambda config: config.name)


def chunks(config: KernelConfig, value: Any) -> int:
    """Stores by TMA of one warpgroup and tile."""
    return 0 if config.splits > 1 else config.m_fragments * value.out_columns(config.block_n) // config.epi_n


def stored_one_by_one(config: KernelConfig, value: Any) -> int:
    """Pairs of columns that a thread stores by itself, of those that a CTA has whole sums of."""
    if config.layout is DENSE and config.splits == 1:
        return 0
    units = -(-config.block_n // (value.unit * config.splits))
    return config.m_fragments * value.out_columns(units * value.unit) // 4


def halved(config: KernelConfig) -> KernelConfig:
    """With store buffers that half as many columns fill; or with a turn of gate and up for each CTA."""
    if config.splits > 1:
        columns = 16 * config.splits
        return replace(config, block_n=columns, epi_n=columns)
    epi_n = gcd(config.epi_n, config.fragment_n // 2)
    return replace(config, epi_n=epi_n, epi_stages=max(2, config.epi_stages))


def additions(config: KernelConfig) -> int:
    """What a bias adds to the code: an addition for each element of whole sums, wherever it may be stored."""
    if config.splits > 1:
        return 2 * stored_one_by_one(config, Bias())
    ways = 1 if config.layout is DENSE else 2
    return ways * config.fragments * config.fragment_n // 2


def test_bias_is_added_by_every_store(name: str) -> None:
    config = STORES[name]
    stats, without = stats_of(config, Bias()), stats_of(config, IDENTITY)
    assert spills(stats) == (0, 0, 0)
    assert stats.count("UTMASTG") == chunks(config, Bias()) == chunks(config, IDENTITY)
    assert stats.count("FADD") - without.count("FADD") == additions(config)


def test_a_value_may_read_ahead(name: str) -> None:
    config = STORES[name]
    assert spills(stats_of(config, RowFactor(config.m_fragments))) == (0, 0, 0)


def test_swiglu_stores_half_as_many_columns(name: str) -> None:
    config = halved(STORES[name])
    stats = stats_of(config, SwiGlu())
    assert spills(stats) == (0, 0, 0)
    assert stats.count("UTMASTG") == chunks(config, SwiGlu())
    zeros = 1 if config.layout.is_grouped else 0
    others = 2 * config.dynamic_persistence + zeros
    assert stats.count("STG") == stored_one_by_one(config, SwiGlu()) + others


@dataclass(frozen=True)
class Wide(Identity):
    """Takes 32 columns together."""

    unit: ClassVar[int] = 32


@pytest.mark.parametrize(
    "config",
    [replace(STORES["tma"], epi_n=16), replace(STORES["cluster"], block_n=80, epi_n=80)],
    ids=["chunks", "shares"],
)
def test_a_value_is_given_whole_units(config: KernelConfig) -> None:
    with pytest.raises(Exception, match=r"(16|80) columns are no whole units of 32"):
        runtime.cubin(program(config, Wide()))


FRAGMENTS = [
    replace(SIDE_BY_SIDE, stages=3, tma_scales=True, cluster_n=2),
    replace(SIDE_BY_SIDE, block_n=224, epi_n=16),
    KernelConfig(64, 256, stages=4, n_fragments=2, epi_stages=4, raster_width=16),
    SIDE_BY_SIDE,
    replace(SIDE_BY_SIDE, stages=3, epi_stages=4),
    replace(SIDE_BY_SIDE, out_dtype="float32", stages=3, epi_n=32),
    replace(SIDE_BY_SIDE, cluster_m=2, raster_width=8, dynamic_persistence=True, l2_promotion=256),
    replace(SIDE_BY_SIDE, stages=3, layout=MASKED),
]


def test_fragments_lie_side_by_side(side_by_side: KernelConfig) -> None:
    config = side_by_side
    assert candidates.can_be_built(config)
    made = runtime.build(config)
    stats = read_cubin(runtime.cubin(made))
    assert spills(stats) == (0, 0, 0)
    assert {name for name in stats.opcodes if "GMMA" in name} == {
        f"QGMMA.64x{config.fragment_n}x32.F32.E4M3.E4M3"
    }
    assert config.smem_bytes == STATIC_SMEM + made.kernel.Storage.size_in_bytes()
    # A fence, a wait and a promotion for each fragment of each k-block.
    blocks = stats.count("QGMMA") // 4
    assert blocks % 2 == 0
    assert stats.count("WARPGROUP.ARRIVE") == stats.count("WARPGROUP.DEPBAR") == blocks
    assert stats.count("FFMA") == blocks * config.fragment_n // 2
    assert stats.count("UTMASTG") == config.block_n // config.epi_n


@pytest.mark.parametrize(
    "config",
    [STORES["tma"], STORES["tma, 64 rows"]],
    ids=lambda config: config.name,
)
def test_a_scaling_of_ones_own(config: KernelConfig) -> None:
    config = replace(config, prefetch_scales=False)
    stats = read_cubin(runtime.cubin(runtime.build(config, scaling=NoScales())))
    assert spills(stats) == (0, 0, 0)
    # Nothing is read of scales, and nothing multiplied but on tensor cores.
    assert stats.count("LDG", "FFMA", "FMUL") == 0
    loop = stats.main_loop
    assert loop is not None
    assert loop.count("FADD") == loop.count("QGMMA") // 4 * config.fragment_n // 2


SIMPLE = [
    STORES["rows, matrices"],
    replace(SIDE_BY_SIDE, block_n=128, stages=4, epi_n=64, tma_scales=True),
]


@pytest.mark.parametrize("config", SIMPLE, ids=lambda config: config.name)
def test_a_mainloop_of_ones_own(config: KernelConfig) -> None:
    stats = read_cubin(runtime.cubin(runtime.build(config, mainloop=SimpleMainloop(group=4))))
    assert spills(stats) == (0, 0, 0)
    # One loop, one wait a k-block.
    assert stats.count("QGMMA") == 4 * config.fragments
    assert stats.count("WARPGROUP.DEPBAR") == 1
    assert stats.count("FFMA") == config.fragments * config.fragment_n // 2


@pytest.mark.parametrize("scheduler", [KGroupedScheduler, KGroupedAddingScheduler])
@pytest.mark.parametrize("is_dynamic", [False, True], ids=["static", "dynamic"])
def test_tiles_of_groups_of_columns_go_through_a_kernel(scheduler: type, is_dynamic: bool) -> None:
    """Their further fields pass its loops and its queue; what they mean, this kernel does not know."""
    config = KernelConfig(128, 128, 4, cluster_m=2, layout=OFFSETS, dynamic_persistence=is_dynamic)
    assert spills(read_cubin(runtime.cubin(runtime.build(config, scheduler=scheduler)))) == (0, 0, 0)
