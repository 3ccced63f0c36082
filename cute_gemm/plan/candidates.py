"""Which kernel instances there are to choose from, which of them suit a problem, and how one is run.

All policy that a configuration is compiled with stands here: a field of :class:`KernelConfig` has the value
that a function of this module gave it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache

from .buildable import why_unbuildable
from .config import RASTER_WIDTH, KernelConfig
from .layouts import DENSE, LAYOUTS, ROW_SCALED, Layout
from .limits import MMA_M, OUT_BYTES, QUANTIZED, SMEM_CAPACITY, STORED_BYTES, ceil_div
from .problem import GemmProblem
from .quantizer import BLOCK, INTERLEAVE
from .recipe import ELEMENT_BYTES, FP8_1D1D, FP8_1D2D, Recipe
from .tiles import (
    GROUPED_CLUSTERS,
    GROUPED_OVERLAPPED_CLUSTERS,
    QUANTIZED_PARTS,
    QUANTIZED_WIDTHS,
    Widths,
)

_MAX_STAGES = 16
# Of overlapped tiles whose operands no other CTA shares: they wait for DRAM, which is slower the more is
# asked of it at once (docs/performance.md, 34).
_MAX_STAGES_ALONE = 8
_STORE_BUDGET = 64 * 1024
# Tiles of two m-fragments are walked in bands half as high where their rows of A are more bytes than L2 keeps
# for them: with 16 tiles 4096 x 7168 x 16384 took 0.5 % longer, with 8 4096 x 32768 x 512 8 %
# (docs/performance.md, 46).
_BAND_SHARE_OF_L2 = 24e6 / (50 << 20)
# With fewer, narrow stores cost more than staged scales gain: 256 x 128 took 0.7 to 1.5 % less at 12 and 16
# k-blocks, and 1 to 3 % more at 4 (docs/performance.md, 52).
_LEAST_NARROW_K_BLOCKS = 8
# Of B, by each CTA. With 64 KiB layers in a chain took 0.1 to 1.1 us less at all of 22 shapes, with several
# times as much up to 2.7 us more (docs/performance.md, 77).
_EARLY_BYTES = 64 * 1024
# With 4, D loaded took 0.70 of what L2 took to add, with 12 and 16 1.03 to 1.06 (docs/performance.md, 91).
_MOST_OUT_LOADING_K_BLOCKS = 8
# FP32 results are more bytes than operands, and in lower bands more of a row's are stored at once.
_ROW_SCALED_RASTER_WIDTH = 4
_ACCUMULATORS = 192  # registers a thread; with more, kernels spill
_MAX_FRAGMENT = 192  # columns; wider tiles have two side by side
_STORED_COLUMNS = 16  # of D, that one instruction moves to shared memory


@cache
def all_configs(
    out_dtype: str = "bfloat16",
    layout: Layout = DENSE,
    recipe: Recipe = FP8_1D2D,
    narrowing: int = 1,
    accumulates: bool = False,
) -> tuple[KernelConfig, ...]:
    """Every configuration that can be chosen for a type of D, a layout, a recipe and a narrowing.

    Where an epilogue makes one column of two, or sums are added to what D holds, k-blocks are not shared out.
    """
    of_rows = recipe.scales_columns
    if accumulates and not of_rows:
        return ()  # an epilogue does that
    candidates = (_row_scaled if of_rows else _candidates)(out_dtype, layout, recipe, narrowing)
    if accumulates:
        candidates = _adding(candidates)
    return tuple(config for config in candidates if can_be_built(config))


def every_config() -> tuple[KernelConfig, ...]:
    """Every configuration that :func:`as_run` can make of one that can be chosen, but for what the next two
    functions give."""
    return _as_run_of((out_dtype, 1) for out_dtype in OUT_BYTES)


def every_reducing_config() -> tuple[KernelConfig, ...]:
    """The same for epilogues that reduce over columns."""
    return _as_run_of([(out_dtype, 2) for out_dtype in STORED_BYTES] + [(QUANTIZED, 1)])


def every_row_scaled_config() -> tuple[KernelConfig, ...]:
    """The same for products whose B has scales of each row."""
    whats = [(out_dtype, False) for out_dtype in OUT_BYTES] + [("float32", True)]
    return tuple(
        variant
        for out_dtype, accumulates in whats
        for layout in ROW_SCALED
        for each in all_configs(out_dtype, layout, FP8_1D1D, 1, accumulates)
        for variant in _in_bands(each)
    )


def _as_run_of(outs: Iterable[tuple[str, int]]) -> tuple[KernelConfig, ...]:
    """Of types of D, and columns of sums for each of it."""
    kinds = list(outs)
    configs = [
        config
        for layout in LAYOUTS.values()
        for out_dtype, narrowing in kinds
        for config in all_configs(out_dtype, layout, narrowing=narrowing)
    ]
    banded = [variant for each in configs for variant in _in_bands(each)]
    return tuple(dict.fromkeys(variant for each in banded for variant in (each, _with_tma_scales(each))))


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
    k_blocks = ceil_div(problem.k, config.block_k)
    pays = staged.epi_n == banded.epi_n or k_blocks >= _LEAST_NARROW_K_BLOCKS
    return staged if pays else banded


def can_be_built(config: KernelConfig) -> bool:
    """Whether a kernel can be built for ``config`` (:func:`why_unbuildable`) that is not sure to be slow.

    Two stages are too few, and with more accumulators than registers a kernel spills.
    """
    if why_unbuildable(config):
        return False
    accumulators = (config.fragments + config.partial_accumulators) * config.fragment_n // 2
    return config.stages >= 3 and accumulators <= _ACCUMULATORS


def can_compute(problem: GemmProblem, config: KernelConfig) -> bool:
    """Whether the kernel of ``config`` computes all of ``problem``, and in the order that it asks for.

    A tile of few rows must hold all rows of a dense product. Where k-blocks are shared out, each CTA needs
    one, and partial sums are added up in another order, which a batch-invariant problem excludes. No kernel
    takes operands in which another dimension than K is contiguous.
    """
    return problem.m <= most_rows(config) and _suits(problem, config)


def most_rows(config: KernelConfig) -> int:
    """The most rows of a problem that a kernel computes: groups may have several tiles of few rows."""
    return config.block_m if config.block_m < MMA_M and not config.layout.is_grouped else sys.maxsize


def _suits(problem: GemmProblem, config: KernelConfig) -> bool:
    """Whether the kernel of ``config`` computes ``problem``, if it has no more rows than it takes."""
    if problem.accumulate != config.accumulates or problem.a_major != "k" or problem.b_major != "k":
        return False
    if problem.out_dtype != config.out_dtype or problem.layout != config.layout:
        return False
    if problem.recipe != config.recipe or problem.narrowing != config.narrowing:
        return False
    # Columns by turns of more than eight would be those of several CTAs.
    if problem.turn > INTERLEAVE and config.scale_ctas > 1:
        return False
    if config.splits == 1:
        return True
    return not problem.batch_invariant and config.splits <= ceil_div(problem.k, config.block_k)


def is_candidate(problem: GemmProblem, config: KernelConfig) -> bool:
    """Whether ``config`` is worth comparing for ``problem``: it computes it, and wastes little.

    A cluster fits the multiprocessors given. At most half of a tile's rows lie beyond a group's rows. Where
    k-blocks are shared out, all CTAs run at once. A tile of fewer than 64 rows is for groups that have at
    most as many on average. Groups fill a tile of two m-fragments, as a warpgroup without rows in a group's
    last tile skips the multiplication, but always multiplies both fragments.
    """
    rows = candidate_rows(problem, config)
    return rows.start <= problem.m < rows.stop


def candidate_rows(problem: GemmProblem, config: KernelConfig) -> range:
    """The M of all problems that differ from ``problem`` in M alone, and that ``config`` is a candidate for.

    They follow one another: what is worth comparing for few and for many rows is so for those between.
    """
    if config.cluster_size > problem.num_sms or not _suits(problem, config):
        return range(0)
    if not _adds_in_time(problem, config):
        return range(0)
    height = config.block_m
    groups = problem.groups if problem.layout.is_grouped else 1  # that rows are of
    least, most = 1, most_rows(config)
    if config.block_m < MMA_M:
        most = height * groups
    if config.splits > 1:
        tiles = problem.card.clusters_at_once(config.splits, problem.num_sms)
        most = min(most, tiles // ceil_div(problem.n, config.block_n) * height)
    if config.cluster_m > 1:
        least = problem.layout.least_rows(config) * groups + 1
    if config.block_m > 64:
        least = max(least, height * groups // 2 + 1)
        if config.m_fragments > 1 and problem.layout.is_grouped:
            least = max(least, height * groups)
    return range(least, most + 1)


def _adds_in_time(problem: GemmProblem, config: KernelConfig) -> bool:
    """Whether sums are added to D where that is faster, if there is a choice.

    L2 adds on, beside all else, but no faster than a short K is multiplied. To load D takes shared memory
    from the ring, and time from math warpgroups.
    """
    if not config.accumulates or config.block_m <= MMA_M or not config.layout.out_loading_tiles:
        return True
    return config.loads_out == (ceil_div(problem.k, config.block_k) <= _MOST_OUT_LOADING_K_BLOCKS)


def _candidates(out_dtype: str, layout: Layout, recipe: Recipe, narrowing: int) -> Iterator[KernelConfig]:
    what = out_dtype, narrowing, layout, recipe
    for overlapped, widths in zip((True, False), _widths(layout, out_dtype, narrowing), strict=True):
        for block_m, block_ns in widths.items():
            for block_n in block_ns:
                clusters = _clusters(block_m, block_n, overlapped, layout)
                if out_dtype == QUANTIZED and overlapped and block_m < MMA_M and block_n < BLOCK * narrowing:
                    clusters = (*clusters, (1, BLOCK * narrowing // block_n))
                for cluster_m, cluster_n in clusters:
                    yield _fill(block_m, block_n, cluster_m, cluster_n, 1, overlapped, *what)
    if narrowing > 1:
        return
    shared = layout.quantized_splits if out_dtype == QUANTIZED else layout.splits
    for (block_m, block_n), each in shared.items():
        for splits in each:
            overlapped = block_m <= MMA_M and block_n <= _MAX_FRAGMENT
            yield _fill(block_m, block_n, 1, 1, splits, overlapped, *what)


def _row_scaled(out_dtype: str, layout: Layout, recipe: Recipe, narrowing: int) -> Iterator[KernelConfig]:
    """Where each row of B has scales, and nothing else is stored than sums."""
    if out_dtype == QUANTIZED or narrowing > 1:
        return
    for (block_m, block_n), clusters in layout.row_scaled_tiles.items():
        for cluster in clusters:
            # Groups of columns may have no k-block, which that main loop always multiplies one of.
            overlapped = block_m <= MMA_M and not layout.has_result_per_group
            yield _fill(block_m, block_n, *cluster, 1, overlapped, out_dtype, narrowing, layout, recipe)


def _adding(configs: Iterable[KernelConfig]) -> Iterator[KernelConfig]:
    """Those that add to what D holds: L2 does it for each tile, and for some a warp that loads D may."""
    for config in configs:
        yield replace(config, accumulates=True)
        if config.cluster_size == 1 and (config.block_m, config.block_n) in config.layout.out_loading_tiles:
            loading = replace(config, accumulates=True, loads_out=True, epi_stages=config.chunks)
            yield _within_smem(loading)


def _within_smem(config: KernelConfig) -> KernelConfig:
    """With as many stages less as there is no room for: each comes with its scales, where they are staged."""
    while config.smem_bytes > SMEM_CAPACITY:
        config = replace(config, stages=config.stages - 1)
    return config


def _widths(layout: Layout, out_dtype: str, narrowing: int) -> tuple[Widths, Widths]:
    """Of tiles that are overlapped, for which they have one fragment; and of the others."""
    if out_dtype == QUANTIZED:
        return _quantized_widths(layout, narrowing)
    unit = _STORED_COLUMNS * narrowing
    low, others = (
        {height: tuple(n for n in each if n % unit == 0) for height, each in widths.items()}
        for widths in (layout.overlapped_widths, layout.widths)
    )
    return low, others


def _quantized_widths(layout: Layout, narrowing: int) -> tuple[Widths, Widths]:
    """The same of what is quantised: tiles that have all columns of a scale, and narrower ones.

    Those are the layout's own. Of their clusters, the one that has all columns of a scale can be built. Those
    of two m-fragments would meet twice a tile, and have no SMs to fill.
    """
    heights = {*layout.overlapped_widths, *layout.widths}
    every = {m: each for m, each in QUANTIZED_WIDTHS.get(narrowing, {}).items() if m in heights}
    low = {height: each for height, each in every.items() if height <= MMA_M and max(each) <= _MAX_FRAGMENT}
    others = {height: each for height, each in every.items() if layout.is_grouped or height not in low}

    def and_narrower(whole: Widths, own: Widths) -> Widths:
        narrower = {
            height: tuple(n for n in each if n < BLOCK * narrowing)
            for height, each in own.items()
            if height <= 2 * MMA_M
        }
        return {m: (*whole.get(m, ()), *narrower.get(m, ())) for m in (*whole, *narrower)}

    parts = {m: each for m, each in QUANTIZED_PARTS.get(narrowing, {}).items() if m in heights}
    overlapped = {m: (*each, *parts.get(m, ())) for m, each in layout.overlapped_widths.items()}
    return and_narrower(low, overlapped), and_narrower(others, layout.widths)


def _clusters(block_m: int, block_n: int, overlapped: bool, layout: Layout) -> tuple[tuple[int, int], ...]:
    """Four that share A pay for narrow tiles of few rows, of whose operands A is the most.

    Of dense tiles of 64 rows, pairs were hardly ever the fastest but with 64, 96 and 128 columns
    (docs/performance.md, 78).
    """
    alone, four = (1, 1), (1, 4)
    if block_m > 64:
        # Of narrow ones A is the most, too: alone none was the fastest (docs/performance.md, 84).
        return (alone, (2, 1), (1, 2)) if block_n >= 64 else ((1, 2),)
    if block_m < 64:
        return (alone,)
    if layout.is_grouped:
        clusters = GROUPED_OVERLAPPED_CLUSTERS if overlapped else GROUPED_CLUSTERS
        return (alone, *clusters.get(block_n, ()))
    pairs = ((2, 1), (1, 2)) if block_n in (64, 96, 128) else ()
    return (alone, *pairs, four) if block_n <= 64 else (alone, *pairs)


def _fill(
    block_m: int,
    block_n: int,
    cluster_m: int,
    cluster_n: int,
    splits: int,
    overlapped: bool,
    out_dtype: str,
    narrowing: int,
    layout: Layout,
    recipe: Recipe,
) -> KernelConfig:
    """The configuration of a tile: store buffers for all of it within a budget, and stages in the rest.

    Tiles that are ``overlapped`` multiply a k-block while they promote the last, and have scales asked for
    ahead: what they wait for is latency.

    Tiles of two m-fragments have the buffers that their layout says, for the sake of a fourth stage; what is
    quantised has one, of the columns that a tile has of a scale.
    """
    few_rows, out_n, of_rows = block_m <= 64, block_n // narrowing, recipe.scales_columns
    width = STORED_BYTES[out_dtype]
    widest = layout.tall_store_bytes if block_m > 128 else 128
    if of_rows and block_m > 128:
        widest = 64  # scales of both operands take the room
    if splits > 1:
        epi_n = block_n
    elif out_dtype == QUANTIZED:
        epi_n = min(out_n, BLOCK)
    else:
        epi_n = next(columns for columns in (widest // width, 64 // width, 16) if out_n % columns == 0)
    n_fragments = ceil_div(block_n, _MAX_FRAGMENT)
    bare = KernelConfig(
        block_m,
        block_n,
        stages=0,
        cluster_m=cluster_m,
        cluster_n=cluster_n,
        epi_n=epi_n,
        epi_stages=1,
        splits=splits,
        # A second one gains 20 to 30 % with 64 rows and loses 2 to 5 % with 128 (docs/performance.md, 14).
        # Many groups of few rows, which DRAM bounds, take up to 1.5 % less with one and whole groups of
        # stages (61).
        partial_accumulators=2 if overlapped else 1,
        raster_width=(_ROW_SCALED_RASTER_WIDTH if of_rows else RASTER_WIDTH) // cluster_m,
        out_dtype=out_dtype,
        narrowing=narrowing,
        layout=layout,
        tma_scales=of_rows,
        # Dense tiles of 64 rows gain by it, others lose (12).
        prefetch_scales=not of_rows and (overlapped or (few_rows and splits > 1)),
        early_k_blocks=0 if layout.index is not None else _early_k_blocks(block_n, recipe),
        dynamic_persistence=not overlapped
        # Tiles of groups of columns take as long as their groups are.
        and (
            (few_rows and splits == 1) or _draws(cluster_m * cluster_n, splits) or layout.has_result_per_group
        ),
        # It pays for groups of few rows, and for dense tiles of many; others lose as often as they gain (65).
        l2_promotion=256 if few_rows == layout.is_grouped and not overlapped else 128,
        n_fragments=n_fragments,
        block_k=recipe.promote_k,
        recipe=recipe,
    )
    chunks = 1 if bare.is_quantized else bare.chunks
    epi_stages = min(chunks, _STORE_BUDGET // bare.store_bytes)
    if of_rows:
        epi_stages = min(epi_stages, 2)
    if bare.m_fragments > 1 and not bare.is_quantized and layout.tall_store_stages is not None:
        epi_stages = layout.tall_store_stages
    tile = replace(bare, epi_stages=epi_stages)
    alone = overlapped and cluster_m == cluster_n == 1
    most = _MAX_STAGES_ALONE if alone else _MAX_STAGES
    stages = min((SMEM_CAPACITY - tile.smem_bytes) // tile.stage_bytes, most)
    if tile.partial_accumulators == 1 and stages > 8:
        stages -= stages % 4
    return _within_smem(replace(tile, stages=stages))


def _early_k_blocks(block_n: int, recipe: Recipe) -> int:
    return _EARLY_BYTES // (block_n * recipe.promote_k * ELEMENT_BYTES[recipe.b_dtype])


def _draws(cluster: int, splits: int) -> bool:
    """Whether clusters draw their tiles of many rows, rather than take those that are theirs.

    It pays for clusters of several CTAs; tiles of 128 rows without clusters take up to 5 % longer
    (docs/performance.md, 64). Clusters that share out k-blocks have one tile.
    """
    return cluster > 1 and splits == 1


@cache
def _in_bands(config: KernelConfig) -> tuple[KernelConfig, ...]:
    """``config`` as it is, and where that may be of use, with bands half as high."""
    if config.m_fragments > 1 and not config.layout.is_grouped and not config.scales_columns:
        return config, replace(config, raster_width=config.raster_width // 2)
    return (config,)


def _is_long(problem: GemmProblem, config: KernelConfig) -> bool:
    """Whether a whole band has more rows than half a band, and too many bytes of A."""
    rows = min(RASTER_WIDTH * config.block_m, problem.m)
    k = config.block_k * problem.layout.k_blocks(problem.k, problem.groups, config.block_k)
    most_bytes = _BAND_SHARE_OF_L2 * problem.card.l2_bytes
    return rows > RASTER_WIDTH // 2 * config.block_m and rows * k > most_bytes


@cache
def _with_tma_scales(config: KernelConfig) -> KernelConfig:
    """``config`` with the scales of A in its stages; as it is where they do not fit, or never pay.

    Tiles of two m-fragments make room, if there is none, by store buffers half as wide. One math warpgroup,
    which has few rows, takes 4 to 13 % longer (docs/performance.md, 45 and 52).
    """
    if config.math_warpgroups > 1:
        staged = replace(config, tma_scales=True)
        if can_be_built(staged):
            return staged
        # Narrower ones than of 32 columns, which fp32 would need, were not tried.
        narrow = replace(staged, epi_n=32)
        if config.m_fragments > 1 and config.epi_n == 64 and can_be_built(narrow):
            return narrow
    return config
