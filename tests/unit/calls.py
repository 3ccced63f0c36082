"""A small call of each operation that is in order, on the CPU, as the launcher and the contract take it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import cute_gemm
from cute_gemm import contract
from cute_gemm.plan.layouts import LAYOUTS, Layout
from cute_gemm.testing import make_inputs

ROWS, GROUPS = 5, 3

every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
grouped_layouts = [layout for layout in LAYOUTS.values() if layout.is_grouped]
every_grouped_layout = pytest.mark.parametrize("layout", grouped_layouts, ids=lambda layout: layout.name)

_OPERATIONS: dict[str, Any] = {
    "dense": cute_gemm.fp8_gemm_nt,
    "contiguous": cute_gemm.m_grouped_fp8_gemm_nt_contiguous,
    "offsets": cute_gemm.m_grouped_fp8_gemm_nt_offsets,
    "masked": cute_gemm.m_grouped_fp8_gemm_nt_masked,
}
_COUNTS = {"offsets": 2, "masked": 4}


@dataclass(frozen=True)
class Arguments:
    """What an operation is called with, but for its result."""

    layout: Layout
    a: Tensor
    sa: Tensor
    b: Tensor
    sb: Tensor
    index: Tensor | None
    count: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result."""
        return (*self.a.shape[:-1], self.b.shape[-2])

    @property
    def pairs(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        return (self.a, self.sa), (self.b, self.sb)

    @property
    def grouping(self) -> tuple[Any, ...]:
        """What a kernel takes behind its launch options."""
        if self.index is None:
            return ()
        return (self.index, self.count) if self.layout.gives_count_to_kernel else (self.index,)

    def with_(self, **changes: Any) -> Arguments:
        return replace(self, **changes)

    def new_out(self, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.zeros(self.shape, dtype=dtype)

    def checked(self, out: Tensor | None = None, out_dtype: torch.dtype = torch.bfloat16) -> contract.Call:
        """The call after the contract has found it in order."""
        return contract.check(
            self.layout, *self.pairs, out, out_dtype, self.index, self.count, validate=False
        )

    def run(self, out: Tensor | None = None, **options: Any) -> Tensor:
        """The public operation."""
        named = {} if self.layout.index is None else {self.layout.index.name: self.index}
        if self.layout.count is not None:
            named[self.layout.count.name] = self.count
        return _OPERATIONS[self.layout.name](*self.pairs, out=out, **named, **options)


def arguments(
    layout: Layout, n: int = 16, k: int = 144, rows: int = ROWS, groups: int = GROUPS, seed: int = 0
) -> Arguments:
    """Operands of ``layout`` with ``rows`` rows, or as many in each matrix, and an index that is right."""
    (a, sa), (b, sb) = make_inputs(groups * rows, n, k, seed=seed)
    if layout.has_matrix_per_group:
        a, sa = (x.unflatten(0, (groups, rows)) for x in (a, sa))
    else:
        a, sa = a[:rows], sa[:rows]
    if layout.is_grouped:
        b = torch.stack([b.view(torch.uint8)] * groups).view(b.dtype)
        sb = sb.repeat(groups, 1, 1)
    index = None
    if layout.index is not None:
        # All rows are of the first group, or of all groups where each has a matrix.
        length = {"M": rows, "G": groups}[layout.index.axis]
        value = 0 if layout.index.axis == "M" else rows
        index = torch.full((length,), value, dtype=torch.int32)
    return Arguments(layout, a, sa, b, sb, index, _COUNTS.get(layout.name, 0))
