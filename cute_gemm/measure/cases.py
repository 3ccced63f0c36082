"""The operands of a shape, our call of them, and what their product must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

import cute_gemm

from .. import quantize, testing
from ..plan.card import Card
from ..plan.layouts import Layout
from ..plan.limits import CONTIGUOUS_ALIGNMENT, ceil_div
from ..reference import dequantized_product, product_scale, take_rows
from ..runtime import launcher, selection
from .calls import Call
from .records import DENSE, OURS, ROW_MAJOR
from .shapes import Shape
from .work import draw_rows, layout_of, problem_of

# What the peers had where each group has a matrix: more rows than any of their groups have.
_CAPACITY = 4096

Operand = tuple[Tensor, Tensor]


def in_layout(sa: Tensor, layout: str) -> Tensor:
    """Scales of A ``[..., M, ceil(K/128)]`` as they are, or M-major on 16 bytes, which TMA can load."""
    if layout == ROW_MAJOR:
        return sa
    if sa.dim() == 2:
        return quantize.m_major(sa)
    # Capacities of groups are multiples of 128 rows, so nothing needs padding. `contiguous` would keep the
    # stride of a single k-block, whatever it is.
    return sa.mT.clone(memory_format=torch.contiguous_format).mT


def _kernel_name(op: str, shape: Shape, card: Card, sa: Tensor) -> str:
    """The kernel that an operation of ours launches, given these scales of A."""
    return selection.select(problem_of(op, shape, card), launcher.tma_can_load(sa)).name


@dataclass(frozen=True)
class DenseCase:
    """Standard normal operands of one product, quantised."""

    shape: Shape
    lhs: Operand
    rhs: Operand
    out_dtype: torch.dtype = torch.bfloat16
    op: str = DENSE

    @staticmethod
    def make(shape: Shape, device: str = "cuda", out_dtype: torch.dtype = torch.bfloat16) -> DenseCase:
        m, n, k = shape
        return DenseCase(shape, *testing.make_inputs(m, n, k, device=device), out_dtype)

    @property
    def grouping(self) -> tuple[Tensor | int, ...]:
        """What a kernel is given to tell groups apart."""
        return ()

    @property
    def arguments(self) -> tuple[Tensor | int, ...]:
        """What the operation takes behind its operands."""
        return ()

    @cached_property
    def product(self) -> Tensor:
        """FP64 ``[M, N]``: what a result must be close to."""
        return dequantized_product(*self.lhs, *self.rhs)

    @cached_property
    def unscaled_product(self) -> Tensor:
        """The same with all scales 1."""
        (a, sa), (b, sb) = self.lhs, self.rhs
        return dequantized_product(a, torch.ones_like(sa), b, torch.ones_like(sb))

    def poisoned_out(self) -> Tensor:
        """A result of NaN, as it is before a call."""
        m, n, _ = self.shape
        return torch.full((m, n), torch.nan, dtype=self.out_dtype, device=self.lhs[0].device)

    def ours(self, layout: str, card: Card, pdl: bool | None = None, name: str = OURS) -> Call:
        """Our operation, with scales of A in ``layout``, on ``card``.

        Args:
            layout, card: as said.
            pdl: as of :func:`cute_gemm.config`.
            name: what it goes by.
        """
        (a, sa), out = self.lhs, self.poisoned_out()
        lhs = a, in_layout(sa, layout)
        return Call(
            name,
            cute_gemm.config(pdl=pdl)(lambda: cute_gemm.fp8_gemm_nt(lhs, self.rhs, out)),
            self.judge,
            scale_layout=layout,
            config=_kernel_name(self.op, self.shape, card, lhs[1]),
        )

    def judge(self, out: Tensor) -> float:
        """The worst tile's error of a result of ours.

        Raises:
            AssertionError: it is wrong, by `testing.assert_close_per_tile`.
        """
        testing.assert_close_per_tile(out, self.product, product_scale(*self.lhs, *self.rhs))
        return self.error(out)

    def error(self, out: Tensor) -> float:
        """The worst tile's error against the FP64 product of the dequantised operands."""
        return testing.worst_tile_error(out, self.product)


@dataclass(frozen=True)
class GroupedCase:
    """One shape's operands in the layout of one operation."""

    op: str
    shape: Shape
    inputs: testing.GroupedInputs
    out_dtype: torch.dtype = torch.bfloat16

    @staticmethod
    def make(op: str, shape: Shape, device: str = "cuda") -> GroupedCase:
        """Groups of as many rows as the peers had."""
        rows = draw_rows(*shape[:2])
        return GroupedCase.of_rows(op, shape, rows, device, capacity=_CAPACITY)

    @staticmethod
    def of_rows(
        op: str,
        shape: Shape,
        rows: Sequence[int],
        device: str = "cuda",
        out_dtype: torch.dtype = torch.bfloat16,
        *,
        capacity: int = 0,
    ) -> GroupedCase:
        """Groups of these rows; where each has a matrix of its own, those have ``capacity`` rows or more."""
        n, k = shape[2:]
        layout = layout_of(op)
        make = getattr(testing, f"make_{layout.name}_inputs")
        padded = ceil_div(max(rows), CONTIGUOUS_ALIGNMENT) * CONTIGUOUS_ALIGNMENT
        matrices = (max(capacity, padded),) if layout.has_matrix_per_group else ()
        inputs = make(rows, *matrices, n, k, device=device)
        # Rows of no group are NaN, which costs less power than numbers.
        (a, sa), empty = inputs.lhs, inputs.row_groups < 0
        count, given = int(empty.sum()), a.view(torch.uint8)[~empty]
        a.view(torch.uint8)[empty] = given[torch.arange(count, device=device) % len(given)]
        sa[empty] = 1.0
        return GroupedCase(op, shape, inputs, out_dtype)

    @property
    def layout(self) -> Layout:
        """How rows find their matrix B."""
        return layout_of(self.op)

    @property
    def lhs(self) -> Operand:
        return self.inputs.lhs

    @property
    def rhs(self) -> Operand:
        return self.inputs.rhs

    @property
    def grouping(self) -> tuple[Tensor | int, ...]:
        """What a kernel is given to tell groups apart."""
        return (self.inputs.index, 1) if self.layout.gives_count_to_kernel else (self.inputs.index,)

    @property
    def arguments(self) -> tuple[Tensor | int, ...]:
        """What the operation takes behind its operands."""
        # What a kernel is given it has by default.
        is_asked = self.layout.count is not None and not self.layout.gives_count_to_kernel
        return (self.inputs.index, self.shape[1]) if is_asked else (self.inputs.index,)

    def poisoned_out(self) -> Tensor:
        """A result of NaN, as it is before a call."""
        n, (a, _) = self.shape[2], self.lhs
        return torch.full((*a.shape[:-1], n), torch.nan, dtype=self.out_dtype, device=a.device)

    def ours(self, layout: str, card: Card, pdl: bool | None = None, name: str = OURS) -> Call:
        """As :meth:`DenseCase.ours`."""
        (a, sa), out = self.lhs, self.poisoned_out()
        operation = getattr(cute_gemm, f"m_grouped_fp8_gemm_nt_{self.layout.name}")
        lhs = a, in_layout(sa, layout)
        return Call(
            name,
            cute_gemm.config(pdl=pdl)(lambda: operation(lhs, self.rhs, *self.arguments, out)),
            self.judge,
            scale_layout=layout,
            config=_kernel_name(self.op, self.shape, card, lhs[1]),
        )

    def judge(self, out: Tensor) -> float:
        """The error of the worst tile of a result of ours that was poisoned before.

        Raises:
            AssertionError: it is wrong, or a row of no group was written.
        """
        inputs = self.inputs
        worst = testing.assert_grouped_correct(out, inputs.lhs, inputs.rhs, inputs.row_groups)
        if not out[inputs.row_groups < 0].isnan().all():
            raise AssertionError("a row of no group was written")
        return worst

    def error(self, out: Tensor) -> float:
        """The worst tile's error, over all groups, of the rows that have one."""
        (a, sa), (b, sb) = self.lhs, self.rhs
        worst = 0.0
        for group in range(len(b)):
            rows = (self.inputs.row_groups == group).nonzero(as_tuple=True)
            product = dequantized_product(take_rows(a, rows), sa[rows], b[group], sb[group])
            worst = max(worst, testing.worst_tile_error(out[rows], product))
        return worst


Case = DenseCase | GroupedCase


def make_case(op: str, shape: Shape, device: str = "cuda") -> Case:
    """Operands of a shape in the layout of ``op``."""
    return DenseCase.make(shape, device) if op == DENSE else GroupedCase.make(op, shape, device)
