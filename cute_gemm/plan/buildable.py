"""Which configurations a kernel can be built for: each rule beside what is said where it is broken."""

from __future__ import annotations

from collections.abc import Iterator

from .config import KernelConfig
from .layouts import DENSE, Layout
from .limits import MMA_M, SMEM_CAPACITY, STORED_BYTES
from .quantizer import BLOCK

_HEIGHTS = 8, 16, 64, 128, 256
_COUNTS = "cluster_m", "cluster_n", "splits", "raster_width", "n_fragments", "narrowing", "stages", "epi_n"
_MAX_FRAGMENT_N = 256  # columns of one WGMMA
_MAX_CLUSTER = 8  # CTAs that every Hopper GPU can run as one cluster
_PARTS_OF_A_SCALE = 64, 32  # columns of D; rows of a TMA store's buffer are as many bytes


def why_unbuildable(config: KernelConfig) -> str:
    """The first rule that a configuration breaks, and what would do; empty if a kernel can be built for it.

    Such a kernel may still spill registers: the compiler says so.
    """
    return next(_objections(config), "")


def _objections(config: KernelConfig) -> Iterator[str]:
    layout: object = config.layout
    if not isinstance(layout, Layout):
        yield f"layout is {config.layout!r}; wanted an object of cute_gemm.plan.layouts, such as OFFSETS"
        return
    if config.out_dtype not in STORED_BYTES:
        names = ", ".join(map(repr, STORED_BYTES))
        yield f"out_dtype is {config.out_dtype!r}; wanted one of the names {names}"
        return
    if config.block_m not in _HEIGHTS:
        yield f"block_m is {config.block_m}; wanted one of {', '.join(map(str, _HEIGHTS))}"
    for name in _COUNTS:
        if getattr(config, name) < 1:
            yield f"{name} is {getattr(config, name)}; wanted at least 1"
            return
    yield from _objections_to_fragments(config)
    if config.cluster_size > _MAX_CLUSTER:
        yield f"a cluster has {config.cluster_size} CTAs; wanted at most {_MAX_CLUSTER}"
    if config.stages < 2:
        yield "stages is 1; wanted at least 2, so that one is filled while another is read"
    if config.block_k != config.recipe.scale_k:
        wanted = f"{config.recipe.scale_k}: a k-block has one scale of each row"
        yield f"block_k is {config.block_k}; wanted {wanted}"
    if config.l2_promotion not in (128, 256):
        yield f"l2_promotion is {config.l2_promotion}; wanted 128 or 256 bytes"
    if config.prefetch_scales and config.dynamic_persistence:
        yield "prefetch_scales and dynamic_persistence are both set, so that two warps would draw tiles"
    if config.scales_columns and not config.tma_scales:
        yield f"the recipe {config.recipe.name} scales rows of A and B, and tma_scales is not set"
    if config.accumulates and (config.out_dtype != "float32" or config.splits > 1 or layout.is_grouped):
        yield "it adds to what D holds; wanted a float32 D, a dense layout, and no k-blocks shared out"
    if config.loads_out and (not config.accumulates or config.layout is not DENSE):
        yield "loads_out is set, so it adds to a D that it loads; wanted accumulates, and a dense layout"
    elif config.loads_out and config.epi_stages != config.chunks:
        yield f"epi_stages is {config.epi_stages}, and D is loaded; wanted {config.chunks}: room for all"
    if config.layout.has_result_per_group and config.partial_accumulators > 1:
        yield "partial_accumulators is 2, and groups of columns may have none; wanted 1"
    if not config.layout.allows(config):
        yield f"the {config.layout.name} layout does not allow its tile, cluster, splits or tma_scales"
    if config.smem_bytes > SMEM_CAPACITY:
        yield (
            f"it takes {config.smem_bytes} bytes of shared memory; there are {SMEM_CAPACITY} for a CTA. "
            "Fewer stages or a smaller tile take less"
        )


def _objections_to_fragments(config: KernelConfig) -> Iterator[str]:
    width = config.fragment_n
    if config.block_n % config.n_fragments or width % 16 or not 16 <= width <= _MAX_FRAGMENT_N:
        yield (
            f"block_n is {config.block_n} in {config.n_fragments} fragments; wanted fragments of 16 to "
            f"{_MAX_FRAGMENT_N} columns, a multiple of 16"
        )
        return
    if width > config.recipe.scale_n + config.scale_group_n and not config.scales_columns:
        yield f"a fragment of {width} columns can have more than two scales of B; wanted fewer columns"
    if config.is_quantized:
        yield from _objections_to_blocks(config)
    elif config.narrowing > 1:
        yield from _objections_to_narrowing(config)
    elif width % config.epi_n or config.epi_n % 8:
        yield (
            f"epi_n is {config.epi_n}, which does not divide the {width} columns of a fragment; pass epi_n="
            f"{next(columns for columns in (64, 32, 16) if width % columns == 0)} or {width}"
        )
    elif config.epi_stages < 2 and config.fragments * width > config.epi_n:
        yield f"epi_stages is {config.epi_stages}; wanted at least 2, or epi_n={width} and one fragment"
    if config.partial_accumulators not in (1, 2):
        yield f"partial_accumulators is {config.partial_accumulators}; wanted 1 or 2"
    elif config.partial_accumulators == 2 and config.fragments > 1:
        yield f"partial_accumulators is 2 for {config.fragments} fragments; wanted 1, or one fragment"


def _objections_to_blocks(config: KernelConfig) -> Iterator[str]:
    if config.block_n % config.narrowing or (config.out_n % BLOCK and not _is_part_of_a_scale(config)):
        parts = ", ".join(f"{columns} in clusters of 1 x {BLOCK // columns}" for columns in _PARTS_OF_A_SCALE)
        yield (
            f"a tile has {config.block_n} columns of sums and {config.narrowing} for each of D; wanted "
            f"{BLOCK * config.narrowing} or a multiple, as {BLOCK} columns of D share a scale; "
            f"or of D {parts}"
        )
    wanted = min(config.out_n, BLOCK)
    if config.epi_n != wanted and config.splits == 1:
        yield f"epi_n is {config.epi_n}; wanted {wanted}, the columns of D that a tile has of a scale"
    if config.splits > 1 and (config.out_n != BLOCK or config.math_warpgroups > 1):
        yield (
            f"splits is {config.splits}, D is quantised, and a tile has {config.block_m} rows and "
            f"{config.out_n} columns of D; wanted at most {MMA_M} and {BLOCK}: CTAs meet once, for one scale "
            "of each row"
        )
    elif config.block_n % (8 * config.narrowing * config.splits):
        yield (
            f"{config.splits} CTAs add up {config.block_n} columns, and D is quantised; wanted as many each, "
            f"a multiple of {8 * config.narrowing}: all count for a scale"
        )


def _is_part_of_a_scale(config: KernelConfig) -> bool:
    """Whether a tile and those of the other CTAs of its cluster have the columns of D of one scale."""
    if config.splits > 1 or config.cluster_m > 1 or config.out_n not in _PARTS_OF_A_SCALE:
        return False
    return config.out_n * config.cluster_n == BLOCK


def _objections_to_narrowing(config: KernelConfig) -> Iterator[str]:
    width = config.fragment_n // config.narrowing
    if config.fragment_n % (8 * config.narrowing) or width % config.epi_n or config.epi_n % 8:
        yield (
            f"epi_n is {config.epi_n}, which does not divide the columns of D that {config.fragment_n} of a "
            f"fragment make, {config.narrowing} each; wanted one that does, a multiple of 8"
        )
    elif config.epi_stages < 2 and config.fragments * width > config.epi_n:
        yield f"epi_stages is {config.epi_stages}; wanted at least 2, or epi_n={width} and one fragment"
