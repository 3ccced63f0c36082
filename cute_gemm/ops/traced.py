"""The road where no tensor has values: a call becomes one of the ops of :mod:`.library`, and nothing is looked at.

Dynamo traces this, so it asks for nothing that would be a guard on a size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import settings
from ..contract import OWNING_TYPES, ambient, result
from ..plan.layouts import Layout
from ..runtime import torch_internals
from . import library, road

# Dynamo of torch 2.8 does not look into a frozenset.
_PLAIN = tuple(OWNING_TYPES)


def is_needed(*arguments: Any) -> bool:
    """Whether some tensor stands for one that will be there, as under `FakeTensorMode`."""
    flat = [x for each in arguments for x in (each if isinstance(each, (tuple, list)) else (each,))]
    return any(isinstance(x, torch_internals.STAND_INS) for x in flat)


def run(
    layout: Layout,
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    out: Tensor | None,
    out_dtype: torch.dtype,
    index: Tensor | None,
    count: int,
    validate: bool,
) -> Tensor:
    """As :func:`cute_gemm.ops.road.run`.

    Raises:
        TypeError: ``out_dtype`` is not that of ``out``.
        ValueError: a gradient is wanted.
    """
    if not _can_be_of_an_op(layout, lhs, rhs, out, out_dtype, index, count, validate):
        if not torch.compiler.is_dynamo_compiling():
            return road.run_checked(layout, lhs, rhs, out, out_dtype, index, count, validate)
        # Loads Dynamo.
        from . import untraced

        return untraced.run(layout, lhs, rhs, out, out_dtype, index, count, validate=validate)
    (a, sa), (b, sb) = lhs, rhs
    ambient.require_no_gradient(a=a, sa=sa, b=b, sb=sb)
    grouping: tuple[Any, ...] = ()
    if layout.index is not None:
        grouping = (index,) if layout.count is None else (index, count)
    named = library.settings_as_arguments(settings.said_in_traced_code())
    if validate:
        named["validate"] = True
    if out is None:
        return library.returning[layout.name](a, sa, b, sb, *grouping, out_dtype=out_dtype, **named)
    result.require_agreement(out, out_dtype)
    ambient.require_no_gradient(out=out)
    library.writing[layout.name](a, sa, b, sb, out, *grouping, **named)
    return out


def _can_be_of_an_op(
    layout: Layout, lhs: Any, rhs: Any, out: Any, out_dtype: Any, index: Any, count: Any, validate: Any
) -> bool:
    """Whether arguments are of the kinds that a schema has; of others the contract says what is wrong."""
    for pair in (lhs, rhs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            return False
    tensors = [*lhs, *rhs]
    if out is not None:
        tensors.append(out)
    if layout.index is not None:
        tensors.append(index)
    for x in tensors:
        if type(x) not in _PLAIN and not isinstance(x, torch_internals.STAND_INS):
            return False
    if isinstance(count, bool) or not isinstance(count, (int, torch.SymInt)):
        return False
    return isinstance(out_dtype, torch.dtype) and isinstance(validate, bool)
