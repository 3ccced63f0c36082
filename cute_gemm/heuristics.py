"""Which kernel instance suits a problem: candidates -> legal ones -> predicted time -> the best.

Pure Python, so that a choice can be explained and tested on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from .problem import BLOCK_K, OUT_BYTES, SMEM_CAPACITY, GemmProblem, KernelConfig, ceil_div

_MAX_STAGES = 16
_STORE_BUDGET = 64 * 1024
_TILES = {
    64: (16, 32, 48, 64, 80, 96, 112, 128),
    128: (16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 192),
    256: (64, 80, 96, 112, 128),
}


@dataclass(frozen=True)
class Choice:
    """A candidate and the time it is predicted to take, in microseconds."""

    config: KernelConfig
    cost_us: float


def rank(problem: GemmProblem) -> list[Choice]:
    """All candidates for ``problem``, the one predicted to be fastest first."""
    choices = [Choice(config, cost_us(problem, config)) for config in all_configs(problem.out_dtype)]
    return sorted(choices, key=lambda choice: choice.cost_us)


def best(problem: GemmProblem) -> KernelConfig:
    """The candidate predicted to be fastest for ``problem``."""
    return rank(problem)[0].config


@cache
def all_configs(out_dtype: str = "bfloat16") -> tuple[KernelConfig, ...]:
    """Every configuration that can be chosen for an output type."""
    return tuple(config for config in _candidates(out_dtype) if is_legal(config))


def is_legal(config: KernelConfig) -> bool:
    """Whether a kernel of ``config`` can be built: shared memory, scale blocks and registers suffice."""
    waves = config.block_m // (64 * config.math_warpgroups)
    accumulators = (waves + config.temporaries) * config.block_n // 2
    chunks = waves * config.block_n // config.epi_n
    return (
        config.smem_bytes <= SMEM_CAPACITY
        and config.stages >= 3
        and config.block_n <= BLOCK_K + config.scale_group_n
        and config.block_n % config.epi_n == 0
        and (config.epi_stages >= 2 or chunks == 1)
        and accumulators <= 192
        and (config.temporaries == 1 or waves == 1)
    )


def _candidates(out_dtype: str) -> Iterator[KernelConfig]:
    for block_m, block_ns in _TILES.items():
        for block_n in block_ns:
            for temporaries in (2,) if block_m == 64 else (1, 2) if block_m == 128 and block_n <= 128 else (1,):
                clusters = ((1, 1), (2, 1), (1, 2))
                if block_m == 64:
                    clusters = ((1, 1), (1, 2), (1, 4)) if block_n <= 64 else ((1, 1), (1, 2))
                for cluster_m, cluster_n in clusters:
                    yield _fill(block_m, block_n, cluster_m, cluster_n, temporaries, out_dtype)


def _fill(block_m: int, block_n: int, cluster_m: int, cluster_n: int, temporaries: int, out_dtype: str) -> KernelConfig:
    """A tile with buffers for a whole tile of output, or as many as the budget allows, and stages in the rest."""
    width = OUT_BYTES[out_dtype]
    warpgroups = 1 if block_m == 64 else 2
    epi_n = next(n for n in (128 // width, 64 // width, 32 // width, 16) if block_n % n == 0)
    chunks = block_m // (64 * warpgroups) * block_n // epi_n
    affordable = _STORE_BUDGET // (warpgroups * 64 * epi_n * width)
    epi_stages = min(chunks, affordable)
    tile = KernelConfig(block_m, block_n, 0, cluster_m, cluster_n, epi_n, epi_stages, temporaries, out_dtype=out_dtype)
    stages = min((SMEM_CAPACITY - tile.smem_bytes) // tile.stage_bytes, _MAX_STAGES)
    return KernelConfig(
        block_m, block_n, stages, cluster_m, cluster_n, epi_n, epi_stages, temporaries, out_dtype=out_dtype
    )


def cost_us(problem: GemmProblem, config: KernelConfig) -> float:
    """Predicted time of ``problem`` with ``config``, in microseconds."""
    m_tiles = ceil_div(problem.m, config.block_m * config.cluster_m) * config.cluster_m
    n_tiles = ceil_div(problem.n, config.block_n * config.cluster_n) * config.cluster_n
    waves = ceil_div(m_tiles * n_tiles, problem.num_sms)
    return 3.0 + waves * problem.k_blocks * config.block_m * config.block_n / 32768
