"""What is to be computed (:class:`GemmProblem`) and with which kernel instance (:class:`KernelConfig`).

Plain frozen dataclasses: no torch and no DSL here, so that heuristics, tests and tools run on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from math import gcd

BLOCK_K = 128
"""Depth of one k-block: the granularity of both scales along K, and 128 bytes of e4m3 (one swizzle row)."""

SMEM_CAPACITY = 227 * 1024
"""Shared memory one CTA may use on sm_90, in bytes."""

STATIC_SMEM = 1024
"""What the compiler reserves of it in front of what a launch asks for, in bytes."""

BARRIER_SMEM = 1024
"""What mbarriers, the queue of tiles and its mailbox take, aligned to what swizzled tiles are. A table of
groups, where a scheduler has one, and staged scales lie between them and those tiles: TABLE_SMEM and
`scales_bytes` more."""

MAX_EXTENT = 2**31 - 1024
"""Largest size of a dimension: kernels have 32-bit coordinates, and a cluster's last tile may lie beyond."""

MAX_SCALE_SPAN = 2**31 - 1
"""Largest offset of a scale from the first, in elements: 32-bit in a kernel."""

STRIDE_END = 2**40
"""Bytes that a step of a tensor map stays below."""

CONTIGUOUS_ALIGNMENT = 128
"""Rows that a group's first row is aligned to in the contiguous layout."""

RASTER = 16
"""Tiles along M of a band, unless a configuration's name says otherwise."""

MAX_GROUPS = 1022
"""Most groups of one call."""

TABLE_SMEM = 4 * (MAX_GROUPS + 2)
"""What a scheduler's table of groups takes, in bytes: an Int32 for each, one for all, one to fill 4 KiB."""

LAYOUTS = "dense", "contiguous", "offsets", "masked"
"""How rows of A find their B: there is one only; by groups of aligned rows; of any rows; a matrix each."""

OUT_BYTES = {"bfloat16": 2, "float32": 4}
"""Supported output types and their size in bytes."""


def ceil_div(a: int, b: int) -> int:
    """Smallest integer not below ``a / b``, for non-negative ``a`` and positive ``b``."""
    return -(-a // b)


class LaunchFlags(IntFlag):
    """How a kernel is to be launched. No result depends on it."""

    PDL = 1
    """By programmatic dependent launch: it may start before the kernels ahead of it have ended."""
    EVICT_FIRST_A = 2
    """What is loaded of A leaves L2 before other lines do."""
    EVICT_FIRST_B = 4
    """The same of B."""


@dataclass(frozen=True, slots=True)
class GemmProblem:
    """``D[m, n] = A[m, k] @ B[n, k].T`` on a device with ``num_sms`` multiprocessors.

    In a layout with ``groups``, each of them has its own ``[n, k]`` matrix B, and ``m`` is the number of rows
    of all of them together, as far as it is known. With ``batch_invariant``, a row of the result must depend
    neither on ``m`` nor on other rows: see :func:`cute_gemm.config`.
    """

    m: int
    n: int
    k: int
    out_dtype: str = "bfloat16"
    num_sms: int = 132
    layout: str = "dense"
    groups: int = 1
    batch_invariant: bool = False

    @property
    def k_blocks(self) -> int:
        """Number of 128-wide blocks along K, the last one possibly partial."""
        return ceil_div(self.k, BLOCK_K)

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.m * self.n * self.k

    @property
    def bytes_moved(self) -> int:
        """Bytes of the operands, their scales and the result, each counted once."""
        operands = (self.m + self.groups * self.n) * self.k
        scales = 4 * self.k_blocks * (self.m + self.groups * ceil_div(self.n, BLOCK_K))
        return operands + scales + self.m * self.n * OUT_BYTES[self.out_dtype]


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """Compile-time parameters of one kernel instance. M, N, K, strides, SM count and hints stay dynamic.

    Args:
        block_m: rows of the tile one CTA computes: 8 or 64 (one math warpgroup), 128 or 256 (two). With 8,
            which is for M up to 8, WGMMA takes what follows in shared memory for the other 56.
        block_n: columns of that tile, a multiple of 16.
        stages: depth of the shared-memory ring, in k-blocks; with a multiple of four and one temporary, tiles
            go through it by groups of four, which takes fewer instructions.
        cluster_m: CTAs of a cluster along M; they share the tile of B by multicast.
        cluster_n: CTAs of a cluster along N; they share the tile of A, and its staged scales, by multicast.
        epi_n: columns of a shared-memory buffer, 64 rows high, through which a math warpgroup stores.
        epi_stages: such buffers of each math warpgroup; at least 2, or 1 if one holds all of its rows.
        splits: CTAs of a cluster that sum up a part of the k-blocks each; with more than one, each cluster
            computes one tile, and the buffers to store through give way to one for partial sums.
        partial_accumulators: WGMMA accumulators in rotation; with 2, a k-block is multiplied while the last is
            promoted.
        raster_width: clusters along M that are walked before the next column of them, for the sake of L2. With
            offsets and masked, a band is of the clusters that begin in one group.
        out_dtype: ``"bfloat16"`` or ``"float32"``.
        layout: how rows find their matrix B, one of :data:`LAYOUTS`.
        tma_scales: the scales of A come with the stages, by TMA, and not by loads of the threads that use
            them. They must be M-major then, their address and strides multiples of 16 bytes, and a tile's
            first row a multiple of four.
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
    raster_width: int = RASTER
    out_dtype: str = "bfloat16"
    layout: str = "dense"
    tma_scales: bool = False

    @property
    def name(self) -> str:
        """Short name for tables and logs, such as ``256x128_c2x1_s4_bf16``."""
        out = {"bfloat16": "bf16", "float32": "fp32"}[self.out_dtype]
        partial_accumulators = "_t2" if self.partial_accumulators == 2 else ""
        cluster = f"c{self.cluster_m}x{self.cluster_n}"
        layout = "" if self.layout == "dense" else f"_{self.layout}"
        splits = f"_k{self.splits}" if self.splits > 1 else ""
        band = self.raster_width * self.cluster_m
        raster_width = f"_r{band}" if band != RASTER else ""
        scales = "_tma-scales" if self.tma_scales else ""
        tile = f"{self.block_m}x{self.block_n}_{cluster}{splits}_s{self.stages}{partial_accumulators}"
        return f"{tile}{raster_width}_{out}{layout}{scales}"

    @property
    def math_warpgroups(self) -> int:
        """Warpgroups that multiply and promote."""
        return 1 if self.block_m <= 64 else 2

    @property
    def m_fragments(self) -> int:
        """64-row fragments that each math warpgroup computes of a tile, one after the other."""
        return max(self.block_m // (64 * self.math_warpgroups), 1)

    @property
    def cluster_size(self) -> int:
        """CTAs of one cluster."""
        return self.cluster_m * self.cluster_n * self.splits

    @property
    def prefetch_scales(self) -> bool:
        """Whether a spare warp asks L2 for scales ahead: dense tiles of 64 rows gain by it, others lose."""
        return self.block_m <= 64 and self.layout == "dense"

    @property
    def dynamic_persistence(self) -> bool:
        """Whether clusters can draw their tiles, instead of taking even turns (kernels/turns.py).

        It pays for clusters of several CTAs, and for groups of few rows; tiles of 128 rows without clusters
        take up to 5 % longer (docs/performance.md, 64). Clusters that share out k-blocks have one tile.
        """
        if self.block_m <= 64:
            return self.layout != "dense"
        return self.cluster_size > 1 and self.splits == 1

    @property
    def judges_operands(self) -> bool:
        """Whether its host code can say if operands are plain (kernels/plain.py)."""
        return self.layout == "dense"

    @property
    def promote_l2(self) -> bool:
        """Whether L2 fetches 256 bytes of A and B for 128 that are asked for (kernels/tensor_maps.py).

        It pays for groups of few rows, and for dense tiles of many; others lose as often as they gain
        (docs/performance.md, 65).
        """
        return (self.block_m <= 64) != (self.layout == "dense")

    @property
    def scale_group_n(self) -> int:
        """Columns of a tile that are sure to share one scale of B, wherever the tile starts."""
        return gcd(self.block_n, BLOCK_K)

    @property
    def straddles(self) -> bool:
        """Whether a tile can cover two 128-column scale blocks of B."""
        return BLOCK_K % self.block_n != 0

    @property
    def stage_bytes(self) -> int:
        """Shared memory of one stage: tiles of A and B."""
        return (self.block_m + self.block_n) * BLOCK_K

    @property
    def store_bytes(self) -> int:
        """Shared memory of the store buffers of all math warpgroups, or of partial sums and their barrier."""
        if self.splits > 1:
            return BARRIER_SMEM + 4 * 64 * self.math_warpgroups * 8 * self.splits * ceil_div(
                self.block_n, 8 * self.splits
            )
        return self.math_warpgroups * self.epi_stages * 64 * self.epi_n * OUT_BYTES[self.out_dtype]

    @property
    def scales_bytes(self) -> int:
        """Shared memory of the scales of A of all stages, aligned as tiles are."""
        return ceil_div(4 * self.block_m * self.stages, 1024) * 1024 if self.tma_scales else 0

    @property
    def table_bytes(self) -> int:
        """Shared memory of the scheduler's table, where finding a tile's group takes one."""
        return TABLE_SMEM if self.layout in ("offsets", "masked") else 0

    @property
    def smem_bytes(self) -> int:
        """Shared memory of one CTA: all stages and store buffers, mbarriers, table, and what is static."""
        fixed = STATIC_SMEM + BARRIER_SMEM + self.table_bytes + self.scales_bytes
        return fixed + self.stages * self.stage_bytes + self.store_bytes
