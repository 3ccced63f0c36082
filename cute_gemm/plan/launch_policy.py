"""How a kernel that was chosen for a problem is launched. No product depends on it."""

from __future__ import annotations

import math
from enum import IntFlag

from .config import KernelConfig
from .limits import ceil_div
from .problem import GemmProblem

_MOST_READERS_AT_ONCE = 4  # tiles that read the same of an operand before it leaves L2
# B of groups: 700 MB take 1 to 2 % less without evict-first, 270 MB 1 to 3 % more, 100 MB 11 % more
# (docs/performance.md, 66).
_MOST_EVICT_FIRST_BYTES = 400e6
# With four k-blocks tiles took up to 3 % longer when drawn, as they pass faster than draws do (64).
_LEAST_DRAWN_K_BLOCKS = 8
# In a chain of layers kernels take about 1 us less by dependent launch. Where CTAs are more than half of the
# SMs and at most 0.8 of them, with much to load, they take 5 to 6 % longer on average, and up to 31 % (78).
_LEAST_BUSY, _MOST_BUSY = 0.5, 0.8
_MUCH_BYTES = 1e6  # that each CTA loads


class LaunchFlags(IntFlag):
    """What a launch tells a kernel about itself."""

    PDL = 1
    """By programmatic dependent launch: it may start before the kernels ahead of it have ended."""
    EVICT_FIRST_A = 2
    """What is loaded of A leaves L2 before other lines do."""
    EVICT_FIRST_B = 4
    """The same of B."""
    FILL = 8
    """Rows of D that are no group's become zero. Only kernels of grouped layouts take notice, and of those
    only such as do not quantise."""


def launch_flags(problem: GemmProblem, config: KernelConfig, pdl: bool | None = False) -> LaunchFlags:
    """Of which operands what is loaded should leave L2 first, for the tiles of ``config``; and ``pdl``.

    That is whether to launch dependently; None where it pays.

    An operand that few tiles read, all at about the same time, is not needed again. If its lines give way
    first, they replace each other and not the rest of L2: an output that has to be written back before its
    line is free, or the other operand. That saves up to 14 % with few rows, and loses as much where an
    operand is read again later (docs/performance.md, 37). Where maps promote and groups have much of B, all
    of L2 is better written back once (66).
    """
    readers_of_a = ceil_div(problem.n, config.block_n)
    groups = problem.groups if problem.layout.is_grouped else 1  # that rows are of
    readers_of_b = ceil_div(ceil_div(problem.m, groups), config.block_m)
    if pdl is None:
        pdl = dependent_launch_pays(problem, config)
    flags = LaunchFlags.PDL if pdl else LaunchFlags(0)
    if readers_of_a <= _MOST_READERS_AT_ONCE:
        flags |= LaunchFlags.EVICT_FIRST_A
    if readers_of_b <= _MOST_READERS_AT_ONCE and not _has_much_of_b(problem, config):
        flags |= LaunchFlags.EVICT_FIRST_B
    return flags


def dependent_launch_pays(problem: GemmProblem, config: KernelConfig) -> bool:
    """Whether a kernel behind another one takes less time by dependent launch."""
    m_clusters, n_clusters = clusters_of(problem, config)
    busy = m_clusters * n_clusters * config.cluster_size / problem.card.sms
    of_tile = problem.layout.k_blocks(problem.k, problem.groups, config.block_k)
    k_blocks = math.ceil(of_tile / config.splits)
    loaded = k_blocks * config.stage_bytes
    return loaded <= _MUCH_BYTES or not _LEAST_BUSY < busy <= _MOST_BUSY


def is_drawn(problem: GemmProblem, config: KernelConfig) -> bool:
    """Whether clusters are to draw their tiles: they can, and there are more than run at once."""
    k_blocks = problem.layout.k_blocks(problem.k, problem.groups, config.block_k)
    if not config.dynamic_persistence or k_blocks < _LEAST_DRAWN_K_BLOCKS:
        return False
    m_clusters, n_clusters = clusters_of(problem, config)
    return m_clusters * n_clusters > max(problem.num_sms // config.cluster_size, 1)


def clusters_of(problem: GemmProblem, config: KernelConfig) -> tuple[int, int]:
    """Clusters of tiles along M, and along N."""
    row_blocks = problem.layout.row_blocks(problem.m, problem.groups, config.block_m)
    return ceil_div(row_blocks, config.cluster_m), ceil_div(problem.n, config.block_n * config.cluster_n)


def _has_much_of_b(problem: GemmProblem, config: KernelConfig) -> bool:
    much = problem.bytes_of_b > _MOST_EVICT_FIRST_BYTES
    return problem.groups > 1 and config.l2_promotion > 128 and much
