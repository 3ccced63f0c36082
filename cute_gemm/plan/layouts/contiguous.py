"""Groups in one matrix, padded to whole blocks of rows, each row of which names its group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..limits import CONTIGUOUS_ALIGNMENT, ceil_div
from .base import Index, Layout

if TYPE_CHECKING:
    from ..config import KernelConfig


class Contiguous(Layout):
    """Each block of 128 rows is of one group; DeepGEMM's contiguous layout."""

    name = "contiguous"
    index = Index("group_index", "M")
    has_padding = True
    row_groups = "cute_gemm.row_groups:contiguous_row_groups"
    validation = "cute_gemm.contract.grouping:group_index_values"

    def scheduler(self, config: KernelConfig) -> str:
        return "cute_gemm.schedulers.m_grouped_contiguous:MGroupedContiguousScheduler"

    def allows(self, config: KernelConfig) -> bool:
        """No tile has rows of two groups."""
        return super().allows(config) and config.block_m <= CONTIGUOUS_ALIGNMENT

    def least_rows(self, config: KernelConfig) -> int:
        """Groups no larger than a cluster gained nothing by sharing B (docs/performance.md, 24)."""
        return config.block_m * config.cluster_m

    def row_blocks(self, m: int, groups: int, height: int) -> int:
        return ceil_div(m, height)


CONTIGUOUS = Contiguous()
