"""Groups of any size in one matrix, one after the other; the device knows where each ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..limits import MAX_ALIGNMENT, TABLE_SMEM
from ..tiles import SMALL_OVERLAPPED_WIDTHS, SMALL_WIDTHS
from .base import Count, Index, Layout

if TYPE_CHECKING:
    from ..config import KernelConfig


class Offsets(Layout):
    """Tokens sorted by expert, as they are: no padding."""

    name = "offsets"
    index: ClassVar[Index] = Index(
        "offsets",
        "G",
        one_too_many="if they begin with a 0, where the first group starts, `offsets[1:]`",
    )
    count = Count("alignment", MAX_ALIGNMENT)
    gives_count_to_kernel = True
    overlapped_widths = SMALL_OVERLAPPED_WIDTHS
    widths = SMALL_WIDTHS
    table_bytes = TABLE_SMEM
    # Half as wide, or two of them, lost 1 % (docs/performance.md, 39 and 47).
    tall_store_stages = None
    row_groups = "cute_gemm.row_groups:offsets_row_groups"
    validation = "cute_gemm.contract.grouping:offsets_values"

    def groups_in_use(self, m: int, groups: int) -> float:
        """Each row may be of any group, as where tokens choose experts: few rows leave many without."""
        return groups * (1 - (1 - 1 / groups) ** m)

    def scheduler(self, config: KernelConfig) -> str:
        return "cute_gemm.schedulers.m_grouped_offsets:MGroupedOffsetsScheduler"

    def allows(self, config: KernelConfig) -> bool:
        """TMA starts on 16 bytes, with an illegal instruction where it does not: tiles begin at any row."""
        return super().allows(config) and not config.tma_scales


OFFSETS = Offsets()
