"""The road where no tensor has values: a call becomes one of the ops that library.py registers.

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
    """Whether all tensors stand for ones that will be there, as under `FakeTensorMode`."""
    flat = [x for each in arguments for x in (each if isinstance(each, (tuple, list)) else (each,))]
    tensors = [x for x in flat if isinstance(x, Tensor)]
    return bool(tensors) and all(isinstance(x, torch_internals.STAND_INS) for x in tensors)


def run(
    layout: Layout,
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    out: Tensor | None,
    out_dtype: torch.dtype,
    index: Tensor | None,
    count: int,
    validate: bool,
    fill: int | None,
    accumulate: bool,
) -> Tensor:
    """As :func:`cute_gemm.ops.road.run`. What cannot be an op breaks the graph, and runs without it."""
    why = why_no_op(layout, lhs, rhs, [] if out is None else [out], index, count, validate, fill)
    if not why and (
        not result.agree(out, out_dtype)
        or not isinstance(accumulate, bool)
        or (accumulate and (out is None or out.dtype is not torch.float32))
    ):
        why = "kinds"
    if why:
        if torch.compiler.is_dynamo_compiling():
            # Loads Dynamo.
            from . import untraced

            given = layout, lhs, rhs, out, out_dtype, index, count
            return untraced.run[why](*given, validate=validate, fill=fill, accumulate=accumulate)
        refuse(why, lhs, rhs, out=out)
        return road.run_checked(layout, lhs, rhs, out, out_dtype, index, count, validate, fill, accumulate)
    grouping, named = arguments_of_op(layout, index, count, validate, fill)
    if out is None:
        return library.op(library.returning[layout.name])(*lhs, *rhs, *grouping, out_dtype=out_dtype, **named)
    if accumulate:
        named["accumulate"] = True
    library.op(library.writing[layout.name])(*lhs, *rhs, out, *grouping, **named)
    return out


def arguments_of_op(
    layout: Layout, index: Tensor | None, count: int, validate: bool, fill: int | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What an op takes behind operands and results, and of what it takes by keyword all that is said."""
    grouping: tuple[Any, ...] = ()
    if layout.index is not None:
        grouping = (index,) if layout.count is None else (index, count)
    named = library.settings_as_arguments(settings.said_in_traced_code())
    if validate:
        named["validate"] = True
    if fill is not None:
        named["fill"] = fill
    return grouping, named


def why_no_op(
    layout: Layout,
    lhs: Any,
    rhs: Any,
    others: list[Any],
    index: Any,
    count: Any,
    validate: Any,
    fill: Any,
) -> str:
    """Why a call cannot be an op, by the names of :data:`.untraced.run`; empty where it can.

    Args:
        layout, lhs, rhs, index, count, validate, fill: as of the call.
        others: results that are given, and what an epilogue brings, which must be tensors, too.
    """
    for pair in (lhs, rhs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            return "kinds"
    tensors = [*lhs, *rhs, *others]
    if layout.index is not None:
        tensors.append(index)
    for x in tensors:
        if type(x) not in _PLAIN and not isinstance(x, torch_internals.STAND_INS):
            return "kinds"
    if (
        isinstance(count, bool)
        or not isinstance(count, (int, torch.SymInt))
        or not isinstance(validate, bool)
        or not (fill is None or type(fill) is int)
    ):
        return "kinds"
    if torch_internals.transforms_are_active():
        return "transform"
    if torch_internals.forward_mode_is_active():
        return "forward mode"
    if torch.is_grad_enabled():
        for x in tensors:
            if x.requires_grad:
                return "gradient"
    return ""


def refuse(why: str, lhs: Any, rhs: Any, **others: Any) -> None:
    """Raises where tensors are of the right kinds but a derivative may be lost."""
    if why == "transform":
        raise ValueError(ambient.in_a_transform("a"))
    if why == "forward mode":
        raise ValueError(ambient.in_forward_mode("a"))
    if why == "gradient":
        ambient.require_no_gradient(a=lhs[0], sa=lhs[1], b=rhs[0], sb=rhs[1])
        ambient.require_no_gradient(**others)
