"""Groups of columns of A and B, each with a D of its own; the device knows where each begins and ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from ..limits import MMA_M, TABLE_SMEM, ceil_div
from ..tiles import COLUMN_GROUP_TILES
from .base import SPREAD, Index, Layout

if TYPE_CHECKING:
    from ..config import KernelConfig
    from ..problem import GemmProblem


class KGrouped(Layout):
    """Columns of tokens sorted by expert, as gradients of experts' weights sum over them.

    A and B are one matrix each, D is one for each group. A group's k-blocks begin at its first column, and
    their scales have columns of their own (:class:`cute_gemm.schedulers.base.RaggedWorkTile`).
    """

    name = "k_grouped"
    # B is one matrix, as it is of a dense product.
    is_grouped = False
    has_result_per_group = True
    measured_as = "dense"
    table_bytes = TABLE_SMEM
    row_scaled_tiles = COLUMN_GROUP_TILES
    index: ClassVar[Index] = Index("offsets", "G + 1")

    def scheduler(self, config: KernelConfig) -> str:
        """What is added to D leaves out groups that have nothing to add."""
        adding = "Adding" if config.accumulates else ""
        return f"cute_gemm.schedulers.k_grouped:KGrouped{adding}Scheduler"

    def store(self, config: KernelConfig) -> str:
        """A tile's rows end where those of its matrix do, so TMA clips what it stores."""
        return f"cute_gemm.kernels.epilogue:{'TmaAddStore' if config.accumulates else 'TmaStore'}"

    def allows(self, config: KernelConfig) -> bool:
        """Both operands have scales of rows. A stage has all rows that are multiplied: they are trimmed."""
        of_rows = config.recipe.scales_columns and config.block_k == config.recipe.scale_k
        return super().allows(config) and of_rows and config.block_m >= MMA_M

    def row_blocks(self, m: int, groups: int, height: int) -> int:
        """Of the D of all groups, each of which has ``m`` rows."""
        return groups * ceil_div(m, height)

    def k_blocks(self, k: int, groups: int, depth: int) -> float:
        """K-blocks that a tile is expected to sum up, of ``k`` columns in all groups together."""
        mean = k / groups
        return sum(math.ceil(mean * share / depth) for share in SPREAD) / len(SPREAD)

    def describe(self, problem: GemmProblem) -> str:
        return f"M = {problem.m}, N = {problem.n}, K = {problem.k} of {problem.groups} groups together"


K_GROUPED = KGrouped()
