"""As traced.py, of products with an epilogue: they become the ops that epilogued_library.py registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..contract import ambient, result
from ..contract.quantizing import E4M3
from ..epilogue import functions, spelling
from ..epilogue.chain import Epilogue, QuantizingEpilogue
from ..epilogue.operands import NUMBER
from ..plan.layouts import Layout
from . import epilogued, epilogued_library, library, traced


def is_needed(lhs: Any, rhs: Any, out: Any, index: Any, epilogue: Any) -> bool:
    """Whether all tensors, an epilogue's too, stand for ones that will be there."""
    return traced.is_needed(lhs, rhs, out, index, _values_of(epilogue))


def run(
    layout: Layout,
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    out: Any,
    out_dtype: torch.dtype,
    index: Tensor | None,
    count: int,
    epilogue: Epilogue,
    *,
    validate: bool,
    fill: int | None,
) -> Any:
    """As :func:`.epilogued.run`. What cannot be an op breaks the graph, and runs without it."""
    why = _why_no_op(layout, lhs, rhs, out, out_dtype, index, count, epilogue, validate, fill)
    if why:
        given = layout, lhs, rhs, out, out_dtype, index, count, epilogue
        if torch.compiler.is_dynamo_compiling():
            # Loads Dynamo.
            from . import untraced

            return untraced.epilogued[why](*given, validate=validate, fill=fill)
        _refuse(why, lhs, rhs, out, epilogue)
        return epilogued.run_checked(*given, validate, fill)
    name: Callable[[functions.Function, int], str] = functions.name_in_graphs
    if torch.compiler.is_dynamo_compiling():
        from . import untraced

        name = untraced.function_name
    text, operands, numbers = spelling.spell(epilogue, name)
    grouping, named = traced.arguments_of_op(layout, index, count, validate, fill)
    named["epilogue"] = text
    named["operands"] = operands
    named["numbers"] = numbers
    ops = epilogued_library
    if not isinstance(epilogue, QuantizingEpilogue):
        if out is None:
            return library.op(ops.returning[layout.name])(*lhs, *rhs, *grouping, out_dtype=out_dtype, **named)
        library.op(ops.writing[layout.name])(*lhs, *rhs, out, *grouping, **named)
        return out
    if out is None or (out[0] is None and out[1] is None):
        return library.op(ops.returning_pairs[layout.name])(*lhs, *rhs, *grouping, **named)
    q, s = _both(lhs[0], rhs[0], out, epilogue)
    library.op(ops.writing_pairs[layout.name])(*lhs, *rhs, q, s, *grouping, **named)
    return q, s


def _both(a: Tensor, b: Tensor, out: Any, epilogue: QuantizingEpilogue) -> tuple[Tensor, Tensor]:
    """Both results, one of which is not given."""
    narrowing = 1
    for stage in epilogue.stages:
        narrowing *= stage.takes
    shape = (*a.shape[:-1], b.shape[-2] // narrowing)
    return epilogued.quantized_results(a, shape, out[0], out[1], epilogue.has_m_major_scales)


def _why_no_op(
    layout: Layout,
    lhs: Any,
    rhs: Any,
    out: Any,
    out_dtype: Any,
    index: Any,
    count: Any,
    epilogue: Any,
    validate: Any,
    fill: Any,
) -> str:
    """As :func:`.traced.why_no_op`."""
    if not isinstance(epilogue, Epilogue):
        return "kinds"
    quantizes = isinstance(epilogue, QuantizingEpilogue)
    results = [out]
    if quantizes and out is not None:
        if not isinstance(out, (tuple, list)) or len(out) != 2:
            return "kinds"
        results = [out[0], out[1]]
    others = [x for x in results if x is not None] + _values_of(epilogue)
    why = traced.why_no_op(layout, lhs, rhs, others, index, count, validate, fill)
    if why:
        return why
    if quantizes:
        return "" if out_dtype is torch.bfloat16 or out_dtype is E4M3 else "kinds"
    return "" if result.agree(out, out_dtype) else "kinds"


def _values_of(epilogue: Any) -> list[Any]:
    """What an epilogue brings beside numbers, which are to be tensors."""
    values: list[Any] = []
    if isinstance(epilogue, Epilogue):
        for stage in epilogue.stages:
            for operand in stage.operands:
                if operand.kind != NUMBER and operand.value is not None:
                    values.append(operand.value)
    return values


def _refuse(why: str, lhs: Any, rhs: Any, out: Any, epilogue: Any) -> None:
    """As :func:`.traced.refuse`."""
    if isinstance(out, (tuple, list)):
        given = {f"out[{number}]": x for number, x in enumerate(out) if x is not None}
    else:
        given = {} if out is None else {"out": out}
    traced.refuse(why, lhs, rhs, **given)
    if why == "gradient":
        for stage in epilogue.stages:
            for name, operand in zip(stage.names, stage.operands, strict=True):
                if isinstance(operand.value, Tensor):
                    ambient.require_no_gradient(**{name: operand.value})
