"""Which kernel instance computes a problem: all that is known when it is compiled."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from .layouts import DENSE, Layout
from .limits import (
    BARRIER_SMEM,
    EXCHANGE_SLOTS,
    MMA_M,
    QUANTIZED,
    SCALE_BYTES,
    STATIC_SMEM,
    STORED_BYTES,
    ceil_div,
)
from .quantizer import BLOCK
from .recipe import ELEMENT_BYTES, FP8_1D2D, Recipe

RASTER_WIDTH = 16
"""Tiles along M that are walked side by side, unless a configuration's name says otherwise."""

_SHORT_NAMES = {"bfloat16": "bf16", "float32": "fp32", QUANTIZED: "e4m3"}


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """Compile-time parameters of one kernel instance. M, N, K, strides, SM count and flags stay dynamic.

    Fields are what :mod:`cute_gemm.plan.candidates`, or a kernel's author, has decided. Properties are what
    follows from them by arithmetic, such as sizes in shared memory; none is a choice.

    Args:
        block_m: rows of the tile one CTA computes: 8, 16 or 64 (one math warpgroup), 128 or 256 (two). With
            fewer than 64 WGMMA takes what follows in shared memory for the others; a dense product must have
            no more rows than that.
        block_n: columns of that tile, a multiple of 16.
        stages: depth of the shared-memory ring, in k-blocks; with a multiple of four and one partial
            accumulator, tiles go through it by groups of four, which takes fewer instructions.
        cluster_m: CTAs of a cluster along M; they share the tile of B by multicast.
        cluster_n: CTAs of a cluster along N; they share the tile of A, and its staged scales, by multicast.
        epi_n: columns of D in a shared-memory buffer, 64 rows high, through which a math warpgroup stores.
        epi_stages: such buffers of each math warpgroup; at least 2, or 1 if one holds all of its rows, or if
            D is quantised.
        splits: CTAs of a cluster that sum up a part of the k-blocks each; with more than one, each cluster
            computes one tile, and the buffers to store through give way to one for partial sums.
        partial_accumulators: of WGMMA, in rotation; with 2, a k-block is multiplied while the last is
            promoted.
        raster_width: clusters along M that are walked before the next column of them, for the sake of L2. In
            layouts whose groups may be of any size, they are of those that begin in one group.
        out_dtype: ``"bfloat16"`` or ``"float32"``; or ``"float8_e4m3fn"``, of what an epilogue quantises.
        narrowing: how many columns of sums an epilogue makes one column of D of.
        layout: how rows find their matrix B.
        tma_scales: the scales of A, and those of B where each of its rows has some, come with the stages, by
            TMA, and not by loads of the threads that use them. They must be M-major then, their address and
            strides multiples of 16 bytes, and a tile's first row a multiple of four.
        prefetch_scales: a spare warp asks L2 for scales ahead.
        early_k_blocks: how many k-blocks of B a CTA asks L2 for while the kernels ahead of a dependent launch
            still run, where tiles do not depend on what they write.
        dynamic_persistence: clusters draw their tiles from a semaphore, where a launch has one.
        l2_promotion: bytes that L2 fetches for 128 of A and B that are asked for: 128, or 256.
        n_fragments: fragments of a math warpgroup side by side along N, each of one WGMMA's columns.
        block_k: depth of a k-block: what one stage holds, and what is promoted at once.
        recipe: types and scales of the operands, and when sums are promoted.
        accumulates: sums are added to what D holds, which is FP32: by L2, as they are stored.
        loads_out: or in shared memory, where a spare warp loads D while its tile is multiplied.
    """

    block_m: int
    block_n: int
    stages: int
    cluster_m: int = 1
    cluster_n: int = 1
    epi_n: int = 64
    epi_stages: int = 2
    splits: int = 1
    partial_accumulators: int = 1
    raster_width: int = RASTER_WIDTH
    out_dtype: str = "bfloat16"
    narrowing: int = 1
    layout: Layout = DENSE
    tma_scales: bool = False
    prefetch_scales: bool = False
    early_k_blocks: int = 0
    dynamic_persistence: bool = False
    l2_promotion: int = 128
    n_fragments: int = 1
    block_k: int = 128
    recipe: Recipe = FP8_1D2D
    accumulates: bool = False
    loads_out: bool = False

    @property
    def name(self) -> str:
        """Short name for tables, such as ``64x96_c1x2_s10_t2_pf_bf16``; each candidate has its own."""
        cluster = f"c{self.cluster_m}x{self.cluster_n}"
        raster_width = self.raster_width * self.cluster_m
        # What most have goes unsaid, and so do store buffers and early k-blocks, which follow from the rest
        # in all candidates.
        parts = (
            (self.recipe != FP8_1D2D, self.recipe.name),
            (True, f"{self.block_m}x{self.block_n}"),
            (self.n_fragments > 1, f"n{self.n_fragments}"),
            (self.block_k != self.recipe.promote_k, f"bk{self.block_k}"),
            (True, cluster),
            (self.splits > 1, f"k{self.splits}"),
            (True, f"s{self.stages}"),
            (self.partial_accumulators > 1, f"t{self.partial_accumulators}"),
            (raster_width != RASTER_WIDTH, f"r{raster_width}"),
            (self.dynamic_persistence, "dyn"),
            (self.l2_promotion != 128, f"l2p{self.l2_promotion}"),
            (self.prefetch_scales, "pf"),
            (self.narrowing > 1, f"by{self.narrowing}"),
            (True, _SHORT_NAMES.get(self.out_dtype, f"{self.out_dtype}")),
            (self.accumulates, "smem-add" if self.loads_out else "add"),
            (self.layout is not DENSE, getattr(self.layout, "name", f"{self.layout}")),
            (self.tma_scales and not self.scales_columns, "tma-scales"),
        )
        return "_".join(text for said, text in parts if said)

    @property
    def math_warpgroups(self) -> int:
        """Warpgroups that multiply and promote."""
        return 1 if self.block_m <= MMA_M else 2

    @property
    def m_fragments(self) -> int:
        """64-row fragments that each math warpgroup computes of a tile, one below the other."""
        return max(self.block_m // (MMA_M * self.math_warpgroups), 1)

    @property
    def fragments(self) -> int:
        """Fragments of one WGMMA's rows and columns that each math warpgroup computes of a tile."""
        return self.m_fragments * self.n_fragments

    @property
    def fragment_n(self) -> int:
        """Columns of a fragment."""
        return self.block_n // self.n_fragments

    @property
    def out_n(self) -> int:
        """Columns of D that a tile has."""
        return self.block_n // self.narrowing

    @property
    def is_quantized(self) -> bool:
        """Whether D is e4m3, with a scale for each row and 128 columns."""
        return self.out_dtype == QUANTIZED

    @property
    def chunks(self) -> int:
        """Store buffers that a math warpgroup fills for a tile: those of all its rows and columns of D."""
        return self.m_fragments * self.out_n // self.epi_n

    @property
    def scale_ctas(self) -> int:
        """CTAs of a cluster that have the columns of D of one scale between them; 1 where D has no scales."""
        if not self.is_quantized:
            return 1
        return self.splits if self.splits > 1 else max(BLOCK // self.out_n, 1)

    @property
    def cluster_size(self) -> int:
        """CTAs of one cluster."""
        return self.cluster_m * self.cluster_n * self.splits

    @property
    def scale_group_n(self) -> int:
        """Columns of a fragment that are sure to share one scale of B, wherever it starts."""
        return gcd(self.fragment_n, self.recipe.scale_n)

    @property
    def straddles(self) -> bool:
        """Whether a fragment can cover two scale blocks of B."""
        return not self.scales_columns and self.recipe.scale_n % self.fragment_n != 0

    @property
    def scales_columns(self) -> bool:
        """As of the recipe."""
        return self.recipe.scales_columns

    @property
    def stage_bytes(self) -> int:
        """Shared memory of one stage: tiles of A and B."""
        a, b = ELEMENT_BYTES[self.recipe.a_dtype], ELEMENT_BYTES[self.recipe.b_dtype]
        return (self.block_m * a + self.block_n * b) * self.block_k

    @property
    def store_bytes(self) -> int:
        """Shared memory of store buffers of all math warpgroups, or of partial sums; and of the meeting."""
        if self.splits > 1:
            unit = 8 * self.narrowing * self.splits
            columns = unit * ceil_div(self.block_n, unit)
            return BARRIER_SMEM + 4 * MMA_M * self.math_warpgroups * columns + self.meeting_bytes
        buffer_bytes = MMA_M * self.epi_n * STORED_BYTES[self.out_dtype]
        barriers = BARRIER_SMEM if self.loads_out else 0
        return self.math_warpgroups * self.epi_stages * buffer_bytes + self.meeting_bytes + barriers

    @property
    def meeting_bytes(self) -> int:
        """Shared memory of what CTAs tell each other of rows that are quantised, with barriers, aligned as
        tiles are."""
        if self.scale_ctas == 1:
            return 0
        slots = EXCHANGE_SLOTS * self.math_warpgroups
        return ceil_div(slots * (4 * MMA_M * self.scale_ctas + 8), 1024) * 1024

    @property
    def scales_bytes(self) -> int:
        """Shared memory of staged scales, aligned as tiles are: those of A of all stages; or of A and B, for
        two rounds of the ring, where each row of B has some."""
        if not self.tma_scales:
            return 0
        rows = self.block_m * self.stages
        if self.scales_columns:
            rows = 2 * 32 * (ceil_div(self.block_m, 32) + ceil_div(self.block_n, 32)) * self.stages
        return ceil_div(SCALE_BYTES * rows, 1024) * 1024

    @property
    def smem_bytes(self) -> int:
        """Shared memory of one CTA: all stages and store buffers, mbarriers, table, and what is static."""
        fixed = STATIC_SMEM + BARRIER_SMEM + self.layout.table_bytes + self.scales_bytes
        return fixed + self.stages * self.stage_bytes + self.store_bytes
