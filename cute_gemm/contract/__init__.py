"""Every rule of a call, once, beside what is said where it is broken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..plan.layouts import Layout, resolve
from . import grouping
from .product import PLAIN as PLAIN_TYPES
from .product import product


@dataclass(frozen=True)
class Call:
    """A call that obeys all rules.

    Args:
        layout: of its operation.
        a, sa, b, sb: operands and their scales.
        out: where to write; None to allocate.
        out_dtype: of the result.
        shape: of the result.
        index: says which rows are whose, if the layout has one.
        count: the number that goes with it, or 0.
    """

    layout: Layout
    a: Tensor
    sa: Tensor
    b: Tensor
    sb: Tensor
    out: Tensor | None
    out_dtype: torch.dtype
    shape: tuple[int, ...]
    index: Tensor | None
    count: int


def check(
    layout: Layout,
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    out: Tensor | None,
    out_dtype: torch.dtype,
    index: Tensor | None,
    count: int,
    validate: bool,
) -> Call:
    """Checks the arguments of an operation."""
    if layout.index is None:
        a, sa, b, sb, m, n, *_ = product(lhs, 2, rhs, 2, out, out_dtype)
        shape: tuple[int, ...] = (m, n)
    else:
        if layout.count is not None:
            grouping.count(layout.count.name, count, layout.count.limit)
        rule = layout.index
        a, sa, b, sb, shape = grouping.m_grouped(
            lhs, layout.a_rank, rhs, rule.name, index, rule.axis, out, out_dtype
        )
        if validate:
            resolve(layout.validation)(index, count, a.shape[-2], len(b))
    dtype = out_dtype if out is None else out.dtype
    return Call(layout, a, sa, b, sb, out, dtype, shape, index, count)


__all__ = ["PLAIN_TYPES", "Call", "check"]
