"""Groups in matrices of their own, all of the same capacity; the device knows how many rows of each count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..limits import TABLE_SMEM
from ..tiles import SMALL_OVERLAPPED_WIDTHS, SMALL_WIDTHS
from .base import Count, Index, Layout

if TYPE_CHECKING:
    from ..config import KernelConfig
    from ..problem import GemmProblem


class Masked(Layout):
    """The first rows of each matrix are valid; DeepGEMM's masked layout."""

    name = "masked"
    has_matrix_per_group = True
    index = Index("valid_rows", "G")
    count = Count(
        "expected_rows",
        None,
        is_a_vector="an index of groups comes before it, and `out` behind it, unlike in DeepGEMM",
    )
    overlapped_widths = SMALL_OVERLAPPED_WIDTHS
    widths = SMALL_WIDTHS
    table_bytes = TABLE_SMEM
    # The table takes some of the room (docs/performance.md, 39 and 47).
    tall_store_bytes = 64
    row_groups = "cute_gemm.row_groups:masked_row_groups"
    validation = "cute_gemm.contract.grouping:valid_rows_values"

    def scheduler(self, config: KernelConfig) -> str:
        return "cute_gemm.schedulers.m_grouped_masked:MGroupedMaskedScheduler"

    def rows(self, m: int, groups: int, count: int) -> int:
        """All groups have as many rows as are expected, at most all."""
        return groups * min(count, m)

    def describe(self, problem: GemmProblem) -> str:
        rows = f"{problem.groups} x {problem.m // problem.groups} expected rows"
        return f"{rows}, N = {problem.n}, K = {problem.k}, {problem.groups} groups"


MASKED = Masked()
