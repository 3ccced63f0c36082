"""Which kernel instance suits a problem: candidates -> legal ones -> predicted time -> the best.

Pure Python, so that a choice can be explained and tested on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from .problem import (
    BLOCK_K,
    CONTIGUOUS_ALIGNMENT,
    LAYOUTS,
    OUT_BYTES,
    RASTER,
    SMEM_CAPACITY,
    GemmProblem,
    KernelConfig,
    LaunchFlags,
    ceil_div,
)

_MAX_STAGES = 16
# Of dense tiles that one math warpgroup computes and no CTA shares operands of: they wait for DRAM, which is
# slower the more is asked of it at once (docs/performance.md, 34).
_MAX_STAGES_ALONE = 8
_STORE_BUDGET = 64 * 1024
# Bands of 256-row tiles are half as high where their rows of A are more bytes than L2 keeps for them: with
# 16 tiles 4096 x 7168 x 16384 took 0.5 % longer, with 8 4096 x 32768 x 512 8 % (docs/performance.md, 46).
_BAND_BYTES = 24e6
# With fewer, narrow stores cost more than staged scales gain: 256 x 128 took 0.7 to 1.5 % less at 12 and 16
# k-blocks, and 1 to 3 % more at 4 (docs/performance.md, 52).
_LEAST_NARROW_K_BLOCKS = 8
_LEAST_DRAWN_K_BLOCKS = 8
_MOST_READERS_AT_ONCE = 4  # tiles that read the same of an operand before it leaves L2
# B of groups: 700 MB take 1 to 2 % less without a hint, 270 MB 1 to 3 % more, 100 MB 11 % more.
_MOST_HINTED_BYTES = 400e6
_ACCUMULATORS = 192  # registers a thread; with more, kernels spill
_BLOCK_N = {
    64: (16, 32, 48, 64, 80, 96, 112, 128),
    128: (64, 80, 96, 112, 128, 144, 160, 192),
    256: (112, 128),
}
# Dense only, and for few tiles: among how many CTAs the k-blocks of one are shared out; 8 rows also for one.
_SPLITS = {
    (8, 64): (1, 2, 4),
    (64, 48): (2, 3),
    (64, 64): (2, 3, 4, 8),
    (64, 96): (3, 4),
    (64, 128): (4,),
    (128, 64): (2, 3),
}
# Grouped problems have many tiles, so fewer widths do.
_GROUPED_BLOCK_N = {64: (64, 96, 128), 128: (128, 160, 192), 256: (128,)}


@dataclass(frozen=True)
class Choice:
    """A candidate and the time it is predicted to take, in microseconds."""

    config: KernelConfig
    cost_us: float


def rank(problem: GemmProblem) -> list[Choice]:
    """All candidates for ``problem``, the one predicted to be fastest first."""
    candidates = all_configs(problem.out_dtype, problem.layout)
    configs = [config for config in candidates if is_suitable(problem, config)]
    choices = [Choice(config, cost_us(problem, config)) for config in configs]
    return sorted(choices, key=lambda choice: choice.cost_us)


def best(problem: GemmProblem) -> KernelConfig:
    """The candidate predicted to be fastest for ``problem``."""
    return rank(problem)[0].config


@cache
def all_configs(out_dtype: str = "bfloat16", layout: str = "dense") -> tuple[KernelConfig, ...]:
    """Every configuration that can be chosen for an output type and a layout."""
    return tuple(config for config in _candidates(out_dtype, layout) if is_legal(config))


def every_config() -> tuple[KernelConfig, ...]:
    """Every configuration that :func:`as_run` can make of one that can be chosen."""
    configs = [
        config for layout in LAYOUTS for out_dtype in OUT_BYTES for config in all_configs(out_dtype, layout)
    ]
    banded = [variant for each in configs for variant in _in_bands(each)]
    return tuple(dict.fromkeys(variant for each in banded for variant in (each, _with_tma_scales(each))))


def dynamic_persistence(problem: GemmProblem, config: KernelConfig) -> bool:
    """Whether clusters draw their tiles: those of ``config`` can, and there are more than run at once.

    With four k-blocks tiles took up to 3 % longer when drawn, as they pass faster than turns come.
    """
    if not config.dynamic_persistence or problem.k_blocks < _LEAST_DRAWN_K_BLOCKS:
        return False
    m_clusters, n_clusters = _clusters_of(problem, config)
    return m_clusters * n_clusters > max(problem.num_sms // config.cluster_size, 1)


def as_run(problem: GemmProblem, config: KernelConfig, tma_scales: bool) -> KernelConfig:
    """``config``, which was chosen for ``problem``, in bands that suit it and for the scales that there are.

    With ``tma_scales``, TMA can load those of A: they are M-major, on 16 bytes. It does where there is room
    for them; if store buffers must be narrow for that, there must be enough k-blocks for it to pay.
    """
    usual, *low = _in_bands(config)
    banded = low[0] if low and _is_long(problem, config) else usual
    if not tma_scales:
        return banded
    staged = _with_tma_scales(banded)
    pays = staged.epi_n == banded.epi_n or problem.k_blocks >= _LEAST_NARROW_K_BLOCKS
    return staged if pays else banded


def _in_bands(config: KernelConfig) -> tuple[KernelConfig, ...]:
    """``config`` as it is, and where that may be of use, with bands half as high."""
    if config.m_fragments > 1 and config.layout == "dense":
        return config, replace(config, raster_width=config.raster_width // 2)
    return (config,)


def _is_long(problem: GemmProblem, config: KernelConfig) -> bool:
    """Whether a whole band has more rows than half a band, and too many bytes of A."""
    rows = min(RASTER * config.block_m, problem.m)
    return rows > RASTER // 2 * config.block_m and rows * problem.k > _BAND_BYTES


def _with_tma_scales(config: KernelConfig) -> KernelConfig:
    """``config`` with the scales of A in its stages; as it is where they do not fit, or never pay.

    Tiles of two m-fragments make room, if there is none, by store buffers half as wide. One math warpgroup, which
    has few rows, takes 4 to 13 % longer (docs/performance.md, 45 and 52).
    """
    if config.math_warpgroups > 1:
        staged = replace(config, tma_scales=True)
        if is_legal(staged):
            return staged
        # Narrower ones than of 32 columns, which fp32 would need, were not tried.
        if config.m_fragments > 1 and config.epi_n == 64 and is_legal(narrow := replace(staged, epi_n=32)):
            return narrow
    return config


def is_legal(config: KernelConfig) -> bool:
    """Whether a kernel of ``config`` can be built and does what its layout asks for.

    Shared memory, scale blocks and registers suffice; and no tile has rows of two contiguous groups. TMA
    starts on 16 bytes, with an illegal instruction where it does not, so it brings no scales of tiles that
    begin at any row, as those of offsets do.
    """
    accumulators = (config.m_fragments + config.partial_accumulators) * config.block_n // 2
    chunks = config.m_fragments * config.block_n // config.epi_n
    return (
        config.smem_bytes <= SMEM_CAPACITY
        and config.stages >= 3
        and config.block_n <= BLOCK_K + config.scale_group_n
        and config.block_n % config.epi_n == 0
        and (config.epi_stages >= 2 or chunks == 1)
        and accumulators <= _ACCUMULATORS
        and (config.partial_accumulators == 1 or config.m_fragments == 1)
        and (config.layout != "contiguous" or config.block_m <= CONTIGUOUS_ALIGNMENT)
        and (config.splits == 1 or _can_split(config))
        and not (config.tma_scales and config.layout == "offsets")
    )


def _can_split(config: KernelConfig) -> bool:
    """Whether the k-blocks of a tile can be shared out: no CTA is without columns to add up."""
    columns = 8 * ceil_div(config.block_n, 8 * config.splits)
    alone = config.layout == "dense" and config.cluster_m == config.cluster_n == config.m_fragments == 1
    return alone and columns * (config.splits - 1) < config.block_n


def is_able(problem: GemmProblem, config: KernelConfig) -> bool:
    """Whether the kernel of ``config`` computes all of ``problem``, and in the order that it asks for.

    Tiles of 8 rows know of no others. Where k-blocks are shared out, each CTA has some, and partial sums are
    added up in another order than without.
    """
    shares_k = config.splits > 1
    return (config.block_m > 8 or problem.m <= 8) and not (
        shares_k and (problem.batch_invariant or config.splits > problem.k_blocks)
    )


def is_suitable(problem: GemmProblem, config: KernelConfig) -> bool:
    """Whether a kernel is able, a cluster fits the multiprocessors given, and no lower tile would do.

    At most half of a tile's rows, and no CTA, lie beyond a group's rows. Where k-blocks are shared out, all
    CTAs run at once.

    Contiguous groups no larger than a cluster gained nothing by sharing B (docs/performance.md, 24), those of
    other layouts from half a cluster on. In a group's last tile a warpgroup without rows multiplies nothing,
    but one of two m-fragments always both.
    """
    if config.cluster_size > problem.num_sms or not is_able(problem, config):
        return False
    tiles = ceil_div(problem.m, config.block_m) * ceil_div(problem.n, config.block_n)
    if config.splits > 1 and tiles * config.splits > problem.num_sms:
        return False
    rows, height = problem.m / problem.groups, config.block_m * config.cluster_m
    if config.m_fragments > 1 and problem.layout != "dense" and rows < config.block_m:
        return False
    least = height if problem.layout == "contiguous" else height - config.block_m
    has_rows = least < rows or config.cluster_m == 1
    return has_rows and (config.block_m <= 64 or config.block_m < 2 * rows)


def l2_hints(problem: GemmProblem, config: KernelConfig) -> LaunchFlags:
    """Of which operands what is loaded should leave L2 first, for the tiles of ``config``.

    An operand that few tiles read, all at about the same time, is not needed again. If its lines give way
    first, they replace each other and not the rest of L2: an output that has to be written back before its
    line is free, or the other operand. That saves up to 14 % with few rows, and loses as much where an
    operand is read again later (docs/performance.md, 37). Where maps promote and groups have much of B, all
    of L2 is better written back once (66).
    """
    readers_of_a = ceil_div(problem.n, config.block_n)
    readers_of_b = ceil_div(ceil_div(problem.m, problem.groups), config.block_m)
    hints = LaunchFlags(0)
    if readers_of_a <= _MOST_READERS_AT_ONCE:
        hints |= LaunchFlags.EVICT_FIRST_A
    if readers_of_b <= _MOST_READERS_AT_ONCE and not _outgrows_hints(problem, config):
        hints |= LaunchFlags.EVICT_FIRST_B
    return hints


def _outgrows_hints(problem: GemmProblem, config: KernelConfig) -> bool:
    bytes_of_b = problem.groups * problem.n * problem.k
    return problem.groups > 1 and config.promote_l2 and bytes_of_b > _MOST_HINTED_BYTES


def _candidates(out_dtype: str, layout: str) -> Iterator[KernelConfig]:
    for block_m, block_ns in (_BLOCK_N if layout == "dense" else _GROUPED_BLOCK_N).items():
        for block_n in block_ns:
            for cluster_m, cluster_n in _clusters(block_m, block_n):
                yield _fill(block_m, block_n, cluster_m, cluster_n, 1, out_dtype, layout)
    if layout == "dense":
        for (block_m, block_n), each in _SPLITS.items():
            for splits in each:
                yield _fill(block_m, block_n, 1, 1, splits, out_dtype, layout)


def _clusters(block_m: int, block_n: int) -> tuple[tuple[int, int], ...]:
    """Four that share A pay for narrow tiles of few rows, of whose operands A is the most."""
    pairs = (1, 1), (2, 1), (1, 2)
    return (*pairs, (1, 4)) if block_m == 64 and block_n <= 64 else pairs


def _fill(
    block_m: int, block_n: int, cluster_m: int, cluster_n: int, splits: int, out_dtype: str, layout: str
) -> KernelConfig:
    """The configuration of a tile: store buffers for all of it within a budget, and stages in the rest.

    Tiles of two m-fragments have two buffers, for the sake of a fourth stage. Masked ones have them half as wide,
    as a table takes some of the room; those of offsets lost 1 % by it (docs/performance.md, 39 and 47).
    """
    # A second temporary gains 20 to 30 % with 64 rows and loses 2 to 5 % with 128 (docs/performance.md, 14).
    # Groups of few rows, which DRAM bounds, take up to 1.5 % less with one and whole groups of stages (61).
    partial_accumulators = 2 if block_m <= 64 and layout == "dense" else 1
    width = OUT_BYTES[out_dtype]
    widest = 64 if block_m > 128 and layout == "masked" else 128
    epi_n = next(columns for columns in (widest // width, 64 // width, 16) if block_n % columns == 0)
    if splits > 1:
        epi_n = block_n
    bare = KernelConfig(
        block_m,
        block_n,
        stages=0,
        cluster_m=cluster_m,
        cluster_n=cluster_n,
        epi_n=epi_n,
        epi_stages=0,
        splits=splits,
        partial_accumulators=partial_accumulators,
        raster_width=RASTER // cluster_m,
        out_dtype=out_dtype,
        layout=layout,
    )
    chunks = bare.m_fragments * block_n // epi_n
    buffer_bytes = replace(bare, epi_stages=1).store_bytes
    tile = replace(bare, epi_stages=min(chunks, _STORE_BUDGET // buffer_bytes))
    if tile.m_fragments > 1 and layout != "offsets":
        tile = replace(tile, epi_stages=2)
    alone = layout == "dense" and block_m <= 64 and cluster_m == cluster_n == 1
    most = _MAX_STAGES_ALONE if alone else _MAX_STAGES
    stages = min((SMEM_CAPACITY - tile.smem_bytes) // tile.stage_bytes, most)
    if partial_accumulators == 1 and stages > 8:
        stages -= stages % 4
    return replace(tile, stages=stages)


# Predicted time. The constants were fitted to the timings in benchmarks/candidates (cold L2): 90 dense shapes
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
_SPREAD = tuple(0.7375 + 0.075 * i for i in range(8))  # sizes of groups, as shares of their mean


def cost_us(problem: GemmProblem, config: KernelConfig) -> float:
    """Predicted time of ``problem`` with ``config`` on a Hopper GPU with a cold L2, in microseconds.

    Waves of tiles, each k-block of a wave as slow as its slowest resource (tensor cores and promotion, the
    way into an SM, L2, lines that many CTAs want), but in all no faster than DRAM delivers.
    """
    m, n, k, groups = problem.m, problem.n, problem.k, problem.groups
    m_clusters, n_clusters = _clusters_of(problem, config)
    slots = problem.num_sms // config.cluster_size * config.cluster_size
    slots = slots * _RESIDENT_CTAS.get(config.cluster_size, 132) // 132
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
        (config.block_m + config.block_n) * BLOCK_K / _SM_BYTES_PER_US,
        active * read_rows * BLOCK_K / _L2_BYTES_PER_US[_sharing(config)],
        sharers * min(config.block_m, 64) / 64 * _SAME_LINE_US,
    )
    k_blocks = ceil_div(problem.k_blocks, config.splits)
    fixed, per_unit = _TILE_US if config.splits == 1 else _SUM_US
    tiles = waves * (k_blocks * k_block + fixed + per_unit * unit)
    rereads = 1 + _REREAD if m_clusters > groups else 1
    dram = (m * k + rereads * groups * n * k + m * n * OUT_BYTES[problem.out_dtype]) / _DRAM_BYTES_PER_US
    return _LAUNCH_US + (_CLUSTER_US if config.cluster_size > 1 else 0) + _soft_max(tiles, dram)


def _sharing(config: KernelConfig) -> str:
    """How the CTAs of a cluster share operands."""
    if config.cluster_m > 1:
        return "along M"
    return "along N" if config.cluster_n > 1 else "alone"


def _clusters_of(problem: GemmProblem, config: KernelConfig) -> tuple[int, int]:
    """Clusters of tiles along M, and along N."""
    m_clusters = ceil_div(_row_blocks(problem, config.block_m), config.cluster_m)
    return m_clusters, ceil_div(problem.n, config.block_n * config.cluster_n)


def _row_blocks(problem: GemmProblem, height: int) -> int:
    """Blocks of ``height`` rows that a problem's rows fall into, none of which has rows of two groups.

    Sizes of groups are not known: they are taken to be spread about their mean. Contiguous ones are padded.
    """
    if problem.layout in ("dense", "contiguous"):
        return ceil_div(problem.m, height)
    mean = problem.m / problem.groups
    blocks = [math.ceil(mean * spread / height) for spread in _SPREAD]
    return problem.groups * sum(blocks) // len(blocks)


def _soft_max(*values: float) -> float:
    """A little above the largest value: resources that are nearly as busy get in each other's way."""
    return sum(value**4 for value in values) ** 0.25
