"""One matrix A, one matrix B."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from ..limits import ceil_div
from .base import Layout, whole_blocks

if TYPE_CHECKING:
    from ..config import KernelConfig
    from ..problem import GemmProblem


class Dense(Layout):
    """One product. A tile's rows end where those of D do, so TMA clips what it stores."""

    name = "dense"
    is_grouped = False
    block_n: ClassVar[Mapping[int, tuple[int, ...]]] = {
        64: (16, 32, 48, 64, 80, 96, 112, 128),
        128: (64, 80, 96, 112, 128, 144, 160, 192),
        256: (112, 128),
    }
    # For few tiles; 8 rows also for one CTA.
    splits: ClassVar[Mapping[tuple[int, int], tuple[int, ...]]] = {
        (8, 64): (1, 2, 4),
        (64, 48): (2, 3),
        (64, 64): (2, 3, 4, 8),
        (64, 96): (3, 4),
        (64, 128): (4,),
        (128, 64): (2, 3),
    }

    def scheduler(self, config: KernelConfig) -> str:
        if config.splits > 1:
            return "cute_gemm.schedulers.split_k:SplitKScheduler"
        return "cute_gemm.schedulers.dense:DenseScheduler"

    def store(self, config: KernelConfig) -> str:
        name = "ClusterSumStore" if config.splits > 1 else "TmaStore"
        return f"cute_gemm.kernels.epilogue:{name}"

    def is_legal(self, config: KernelConfig) -> bool:
        """K-blocks may be shared out by the CTAs of a cluster, none of which is without columns to add up."""
        if config.splits == 1:
            return True
        columns = 8 * ceil_div(config.block_n, 8 * config.splits)
        alone = config.cluster_m == config.cluster_n == config.fragments == 1
        return alone and columns * (config.splits - 1) < config.block_n

    def row_blocks(self, problem: GemmProblem, height: int) -> int:
        return whole_blocks(problem, height)

    def describe(self, problem: GemmProblem) -> str:
        return f"M = {problem.m}, N = {problem.n}, K = {problem.k}"


DENSE = Dense()
