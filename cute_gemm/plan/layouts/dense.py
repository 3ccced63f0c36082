"""One matrix A, one matrix B."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..limits import ceil_div
from ..tiles import (
    DENSE_OVERLAPPED_WIDTHS,
    DENSE_SPLITS,
    DENSE_WIDTHS,
    OUT_LOADING_TILES,
    QUANTIZED_SPLITS,
    ROW_SCALED_TILES,
)
from .base import Layout

if TYPE_CHECKING:
    from ..config import KernelConfig
    from ..problem import GemmProblem


class Dense(Layout):
    """One product. A tile's rows end where those of D do, so TMA clips what it stores."""

    name = "dense"
    is_grouped = False
    overlapped_widths = DENSE_OVERLAPPED_WIDTHS
    widths = DENSE_WIDTHS
    splits = DENSE_SPLITS
    quantized_splits = QUANTIZED_SPLITS
    row_scaled_tiles = ROW_SCALED_TILES
    out_loading_tiles = OUT_LOADING_TILES

    def scheduler(self, config: KernelConfig) -> str:
        if config.splits > 1:
            return "cute_gemm.schedulers.split_k:SplitKScheduler"
        return "cute_gemm.schedulers.dense:DenseScheduler"

    def store(self, config: KernelConfig) -> str:
        if config.accumulates:
            return f"cute_gemm.kernels.epilogue:{'SmemAddStore' if config.loads_out else 'TmaAddStore'}"
        whole, shared = (
            ("ByteStore", "ClusterByteStore") if config.is_quantized else ("TmaStore", "ClusterSumStore")
        )
        return f"cute_gemm.kernels.epilogue:{whole if config.splits == 1 else shared}"

    def allows(self, config: KernelConfig) -> bool:
        """K-blocks may be shared out by the CTAs of a cluster, none of which is without columns to add up."""
        if config.splits == 1:
            return True
        columns = 8 * config.narrowing * ceil_div(config.block_n, 8 * config.narrowing * config.splits)
        fragments = config.m_fragments if config.is_quantized else config.fragments
        alone = config.cluster_m == config.cluster_n == fragments == 1
        return alone and columns * (config.splits - 1) < config.block_n

    def row_blocks(self, m: int, groups: int, height: int) -> int:
        return ceil_div(m, height)

    def describe(self, problem: GemmProblem) -> str:
        return f"M = {problem.m}, N = {problem.n}, K = {problem.k}"


DENSE = Dense()
