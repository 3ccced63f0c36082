"""How long a kernel instance is predicted to take: what is chosen where nothing was measured.

Pure Python, so that a choice can be explained and tested on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from .candidates import all_configs, is_candidate
from .config import KernelConfig
from .launch_policy import clusters_of
from .limits import H100_SMS, ceil_div
from .problem import GemmProblem


@dataclass(frozen=True)
class Choice:
    """A candidate and the time it is predicted to take, in microseconds."""

    config: KernelConfig
    cost_us: float


def rank(problem: GemmProblem) -> list[Choice]:
    """All candidates for ``problem``, the one predicted to be fastest first."""
    candidates = all_configs(problem.out_dtype, problem.layout, problem.recipe)
    configs = [config for config in candidates if is_candidate(problem, config)]
    choices = [Choice(config, cost_us(problem, config)) for config in configs]
    return sorted(choices, key=lambda choice: choice.cost_us)


def best(problem: GemmProblem) -> KernelConfig:
    """The candidate predicted to be fastest for ``problem``."""
    return rank(problem)[0].config


# The constants were fitted to the timings in benchmarks/candidates (cold L2): 90 dense shapes
# on an H100, 43 grouped ones on an H200, of older kernels; benchmarks/cost_model.py shows how well, and what
# is picked at shapes that they were not fitted to. They are what makes choices good, not what a part of the
# chip does: DRAM is given more than it has, as times add up. CTAs of two groups are taken to share B like
# others, and scales of A to cost the same whichever way they come.

_LAUNCH_US = 2.38
_CLUSTER_US = 0.704  # a launch of clusters, over one without
_TILE_US = 0.562, 0.396  # prologue and store of a tile: fixed, and per 64 x 128 elements
# The same for a k-block. Of 8 rows, 64 are multiplied.
_K_BLOCK_US = {
    8: (0.0429, 0.202),
    64: (0.0402, 0.135),
    128: (0.196, 0.054),
    256: (0.314, 0.0712),
}
_SUM_US = 0.0, 0.448  # the same as of a tile where partial sums are handed over and added up
_STRADDLING = 1.13  # on top of that, for selecting among two scales of B
_SM_BYTES_PER_US = 116e3  # into one SM
# Out of L2, to all SMs; fitted. Clusters are placed GPC by GPC (docs/performance.md, 40).
_L2_BYTES_PER_US = {"alone": 14.4e6, "along M": 14.4e6, "along N": 9.4e6}
_SAME_LINE_US = 0.00345  # one CTA's turn at 64 lines of A that all CTAs of a row of tiles ask for at once
_DRAM_BYTES_PER_US = 3.53e6
_REREAD = 0.88  # how often more B is read where groups have several rows of tiles; fitted
# Clusters of four and of eight do not fill every GPC of 132 SMs; the first is fitted, 112 are sure.
_RESIDENT_CTAS = {4: 114, 8: 112}


def cost_us(problem: GemmProblem, config: KernelConfig) -> float:
    """Predicted time of ``problem`` with ``config`` on a Hopper GPU with a cold L2, in microseconds.

    Waves of tiles, each k-block of a wave as slow as its slowest resource (tensor cores and promotion, the
    way into an SM, L2, lines that many CTAs want), but in all no faster than DRAM delivers.
    """
    m, n, k, groups = problem.m, problem.n, problem.k, problem.groups
    m_clusters, n_clusters = clusters_of(problem, config)
    slots = problem.num_sms // config.cluster_size * config.cluster_size
    slots = slots * _RESIDENT_CTAS.get(config.cluster_size, H100_SMS) // H100_SMS
    # One cluster is launched even where there is no room for it.
    slots = max(slots, config.cluster_size)
    ctas = m_clusters * n_clusters * config.cluster_size
    waves, active = ceil_div(ctas, slots), min(ctas, slots)

    unit = max(config.block_m, 64) * config.block_n / 8192
    fixed, per_unit = _K_BLOCK_US[config.block_m]
    read_rows = min(config.block_m, m) / config.cluster_n + config.block_n / config.cluster_m
    sharers = active / (config.cluster_n * min(m_clusters * config.cluster_m, active))
    k_block = _soft_max(
        (fixed + per_unit * unit) * (_STRADDLING if config.straddles else 1),
        (config.block_m + config.block_n) * config.block_k / _SM_BYTES_PER_US,
        active * read_rows * config.block_k / _L2_BYTES_PER_US[_sharing(config)],
        sharers * min(config.block_m, 64) / 64 * _SAME_LINE_US,
    )
    k_blocks = ceil_div(ceil_div(problem.k, config.block_k), config.splits)
    fixed, per_unit = _TILE_US if config.splits == 1 else _SUM_US
    tiles = waves * (k_blocks * k_block + fixed + per_unit * unit)
    rereads = 1 + _REREAD if m_clusters > groups else 1
    dram = (m * k + rereads * groups * n * k + problem.out_bytes) / _DRAM_BYTES_PER_US
    return _LAUNCH_US + (_CLUSTER_US if config.cluster_size > 1 else 0) + _soft_max(tiles, dram)


def _sharing(config: KernelConfig) -> str:
    """How the CTAs of a cluster share operands."""
    if config.cluster_m > 1:
        return "along M"
    return "along N" if config.cluster_n > 1 else "alone"


def _soft_max(*values: float) -> float:
    """A little above the largest value: resources that are nearly as busy get in each other's way."""
    return sum(value**4 for value in values) ** 0.25
