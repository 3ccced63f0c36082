"""As library.py, of products with an epilogue: each operation is four more ops of torch's dispatcher.

By what is behind the operation's name:

    _epilogue         _epilogue_out         return a new tensor; write `out`
    _quantizing       _quantizing_out       return e4m3 and scales; write both

An op takes an epilogue as text, tensors and numbers (:mod:`cute_gemm.epilogue.spelling`). Schemas are public:
docs/torch_compile.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..epilogue import spelling
from ..epilogue.chain import QuantizingEpilogue
from ..plan.layouts import Layout
from ..runtime import torch_internals
from . import epilogued, library

_EPILOGUE = "str epilogue, Tensor[] operands, float[] numbers"


def _product(
    answer: Callable[..., Any],
    layout: Layout,
    quantizes: bool,
    a: Tensor,
    sa: Tensor,
    b: Tensor,
    sb: Tensor,
    index: Tensor | None = None,
    count: int = 0,
    *,
    epilogue: str,
    operands: list[Tensor] | None,
    numbers: list[float] | None,
    out: Any = None,
    out_dtype: torch.dtype = torch.bfloat16,
    validate: bool = False,
    fill: int | None = None,
    num_sms: int | None = None,
    batch_invariant: bool | None = None,
    pdl: bool | None = None,
) -> Any:
    """What ``answer``, which takes arguments as :func:`.epilogued.run` does, makes of those of an op."""
    library.require_no_forward_mode()
    # AOTInductor hands over an empty list as None.
    made = spelling.read(epilogue, operands or (), numbers or ())
    if isinstance(made, QuantizingEpilogue) is not quantizes:
        does, op = ("quantises nothing", "_epilogue") if quantizes else ("quantises", "_quantizing")
        raise ValueError(f"the epilogue {epilogue!r} {does}; wanted the op whose name ends in {op}")
    with library.scope(num_sms, batch_invariant, pdl):
        given = layout, (a, sa), (b, sb), out, out_dtype, index, count, made
        return answer(*given, validate=validate, fill=fill)


def _describe(*given: Any, validate: bool, fill: int | None) -> Any:
    """Of tensors without memory: what the result will be, after the rules that can be judged without it."""
    call = epilogued.checked(*given, validate=validate, fill=fill, has_memory=False)
    if call.scales_out is not None:
        return call.out, call.scales_out
    return call.a.new_empty(call.shape, dtype=call.out_dtype) if call.out is None else call.out


def _writing(function: Callable[..., Any]) -> Callable[..., None]:
    """The same with a result that is given, behind the operands."""

    def write(
        a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, out: Tensor, *grouping: Any, **named: Any
    ) -> None:
        function(a, sa, b, sb, *grouping, out=out, **named)

    return write


def _writing_pair(function: Callable[..., Any]) -> Callable[..., None]:
    """The same with two."""

    def write(
        a: Tensor,
        sa: Tensor,
        b: Tensor,
        sb: Tensor,
        out: Tensor,
        scales_out: Tensor,
        *grouping: Any,
        **named: Any,
    ) -> None:
        function(a, sa, b, sb, *grouping, out=(out, scales_out), **named)

    return write


returning: dict[str, str] = {}
"""By the name of a layout: the name of the op that returns a new tensor."""

writing: dict[str, str] = {}
"""By the name of a layout: the name of the op that writes `out`."""

returning_pairs: dict[str, str] = {}
"""By the name of a layout: the name of the op that returns e4m3 and scales."""

writing_pairs: dict[str, str] = {}
"""By the name of a layout: the name of the op that writes both."""

# As library.py says.
for _code in (epilogued.run.__code__, _product.__code__):
    torch_internals.keep_from_dynamo(_code, and_what_it_calls=True)

for _name, (_layout, _places, _settings) in library.SCHEMAS.items():
    _names = f"{_EPILOGUE}, {{}}{_settings}"
    _plain, _pair = (
        [functools.partial(_product, answer, _layout, quantizes) for answer in (epilogued.run, _describe)]
        for quantizes in (False, True)
    )
    _given, _both = (
        _places.replace(library.OPERANDS, f"{library.OPERANDS}, {results}")
        for results in ("Tensor(a!) out", "Tensor(a!) out, Tensor(b!) scales_out")
    )
    returning[_layout.name] = library.register(
        f"{_name}_epilogue", f"({_places}, *, {_names.format('ScalarType out_dtype, ')}) -> Tensor", *_plain
    )
    writing[_layout.name] = library.register(
        f"{_name}_epilogue_out", f"({_given}, *, {_names.format('')}) -> ()", *map(_writing, _plain)
    )
    returning_pairs[_layout.name] = library.register(
        f"{_name}_quantizing", f"({_places}, *, {_names.format('')}) -> (Tensor, Tensor)", *_pair
    )
    writing_pairs[_layout.name] = library.register(
        f"{_name}_quantizing_out", f"({_both}, *, {_names.format('')}) -> ()", *map(_writing_pair, _pair)
    )
