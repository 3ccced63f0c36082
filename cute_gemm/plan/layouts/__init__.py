"""How rows of A find their matrix B: one object for each way, which owns all that depends on it.

A new layout is a new file here, a scheduler in :mod:`cute_gemm.schedulers`, and its operation in
:mod:`cute_gemm.ops`.
"""

from .base import Count, Index, Layout, resolve
from .contiguous import CONTIGUOUS, Contiguous
from .dense import DENSE, Dense
from .k_grouped import K_GROUPED, KGrouped
from .masked import MASKED, Masked
from .offsets import OFFSETS, Offsets

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (DENSE, CONTIGUOUS, OFFSETS, MASKED)}
"""All layouts of groups of rows, by name. :data:`K_GROUPED` is not among them: its groups are of columns."""

ROW_SCALED = tuple(layout for layout in (*LAYOUTS.values(), K_GROUPED) if layout.row_scaled_tiles)
"""Those with kernels for scales of each row of B."""

__all__ = [
    "CONTIGUOUS",
    "DENSE",
    "K_GROUPED",
    "LAYOUTS",
    "MASKED",
    "OFFSETS",
    "ROW_SCALED",
    "Contiguous",
    "Count",
    "Dense",
    "Index",
    "KGrouped",
    "Layout",
    "Masked",
    "Offsets",
    "resolve",
]
