"""The operations as torch's dispatcher knows them: what compiled, exported and fake calls are made of.

Each is two ops of the namespace `cute_gemm`: one returns a new tensor; the other, with `_out` behind its
name, writes `out` and returns nothing. An eager call does not come by here (:mod:`.road`), as the dispatcher
would take longer than a launch. Schemas are public: docs/torch_compile.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch import library as torch_library

from .. import contract, settings
from ..contract import ambient
from ..plan.layouts import CONTIGUOUS, DENSE, MASKED, OFFSETS, Layout
from ..runtime import torch_internals
from . import road

NAMESPACE = "cute_gemm"

OPERANDS = "Tensor a, Tensor sa, Tensor b, Tensor sb"
SETTINGS = "int? num_sms=None, bool? batch_invariant=None, bool? pdl=None"
ACCUMULATE = "bool accumulate=False"
_OF_GROUPS = "bool validate=False, int? fill=None"

SCHEMAS: dict[str, tuple[Layout, str, str]] = {
    "fp8_gemm_nt": (DENSE, OPERANDS, SETTINGS),
    "m_grouped_fp8_gemm_nt_contiguous": (
        CONTIGUOUS,
        f"{OPERANDS}, Tensor group_index",
        f"{_OF_GROUPS}, {SETTINGS}",
    ),
    "m_grouped_fp8_gemm_nt_offsets": (
        OFFSETS,
        f"{OPERANDS}, Tensor offsets, SymInt alignment",
        f"{_OF_GROUPS}, {SETTINGS}",
    ),
    "m_grouped_fp8_gemm_nt_masked": (
        MASKED,
        f"{OPERANDS}, Tensor valid_rows, SymInt expected_rows",
        f"{_OF_GROUPS}, {SETTINGS}",
    ),
}
"""By the name of an op: its layout, what it takes by place, and by keyword. Numbers that change from call to
call are symbolic."""

_ALL = 0
"""`num_sms` where a scope says that a kernel may use all of a device; None is for what no scope says."""

_IN_A_TRANSFORM = "FuncTorchDynamicLayerFrontMode"
"""The dispatch key that goes before all others while a transform of torch.func is active."""

_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
"""Exact strides: Inductor would else be free to change rows' distance, or the order of scales."""


def settings_as_arguments(said: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an op for what scopes say; whether a call may compile is asked where it is made."""
    said = {name: value for name, value in said.items() if name != "jit"}
    if said.get("num_sms", ...) is None:
        return said | {"num_sms": _ALL}
    return said


def scope(
    num_sms: int | None, batch_invariant: bool | None, pdl: bool | None
) -> AbstractContextManager[None]:
    """The settings that arguments of an op ask for; the others are as they are where it is called."""
    said: dict[str, Any] = {"num_sms": num_sms, "batch_invariant": batch_invariant, "pdl": pdl}
    said = {name: value for name, value in said.items() if value is not None}
    if not said:
        return nullcontext()
    return settings.config(**said | ({"num_sms": None} if num_sms == _ALL else {}))


def require_no_forward_mode() -> None:
    """Below the dispatcher, tensors must not be asked for tangents.

    Raises:
        ValueError: a level of forward-mode AD is active.
    """
    if torch_internals.forward_mode_is_active():
        raise ValueError(ambient.in_forward_mode("a"))


def _product(
    answer: Callable[..., Tensor],
    layout: Layout,
    a: Tensor,
    sa: Tensor,
    b: Tensor,
    sb: Tensor,
    index: Tensor | None = None,
    count: int = 0,
    *,
    out: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    validate: bool = False,
    fill: int | None = None,
    num_sms: int | None = None,
    batch_invariant: bool | None = None,
    pdl: bool | None = None,
    accumulate: bool = False,
) -> Tensor:
    """What ``answer``, which takes arguments as :func:`.road.run` does, makes of those of an op."""
    require_no_forward_mode()
    with scope(num_sms, batch_invariant, pdl):
        given = layout, (a, sa), (b, sb), out, out_dtype, index, count
        return answer(*given, validate=validate, fill=fill, accumulate=accumulate)


def _describe(
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
    """Of tensors without memory: what the result will be, after the rules that can be judged without it."""
    given = layout, lhs, rhs, out, out_dtype, index, count, validate
    call = contract.check(*given, has_memory=False, fill=fill, accumulate=accumulate)
    return call.a.new_empty(call.shape, dtype=call.out_dtype) if out is None else out


def _writing(function: Callable[..., Tensor]) -> Callable[..., None]:
    """The same with a result that is given, behind the operands."""

    def write(
        a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, out: Tensor, *grouping: Any, **named: Any
    ) -> None:
        function(a, sa, b, sb, *grouping, out=out, **named)

    return write


def _refuse_transform(*arguments: Any, **named: Any) -> None:
    """Inside a transform of torch.func, which would else lose a derivative without a word."""
    raise ValueError(ambient.in_a_transform("a"))


_library = torch_library.Library(NAMESPACE, "DEF")
"""As long as it lives, the ops are registered."""


def register(name: str, schema: str, compute: Callable[..., Any], describe: Callable[..., Any]) -> str:
    """Defines an op, and returns its name.

    Args:
        name, schema: as torch writes them.
        compute: on tensors that are there.
        describe: of fake ones: what there will be, after the rules that can be judged without memory.
    """
    _library.define(f"{name}{schema}", tags=_TAGS)
    for key in ("CPU", "CUDA"):
        _library.impl(name, compute, key)
    torch_internals.register_fake(_library, f"{NAMESPACE}::{name}", describe)
    _library.impl(name, _refuse_transform, _IN_A_TRANSFORM)
    return name


def op(name: str) -> Any:
    """The op of a name. Its object is made when torch is first asked for it, which takes its time."""
    return getattr(getattr(torch.ops, NAMESPACE), name).default


returning: dict[str, str] = {}
"""By the name of a layout: the name of the op that returns a new tensor."""

writing: dict[str, str] = {}
"""By the name of a layout: the name of the op that writes `out`."""

for _function in settings.TRACED_IN_CALLERS_ONLY:
    torch_internals.keep_from_dynamo(_function.__code__)
# Where Dynamo gives up a caller, as that of torch 2.14 does inside forward-mode AD, it would come to each
# function below by itself.
for _code in (road.run.__code__, _product.__code__):
    torch_internals.keep_from_dynamo(_code, and_what_it_calls=True)

for _name, (_layout, _places, _names) in SCHEMAS.items():
    # On a device an op takes the road of an eager call.
    _functions = [functools.partial(_product, answer, _layout) for answer in (road.run, _describe)]
    returning[_layout.name] = register(
        _name, f"({_places}, *, ScalarType out_dtype, {_names}) -> Tensor", *_functions
    )
    _places = _places.replace(OPERANDS, f"{OPERANDS}, Tensor(a!) out")
    if _layout is DENSE:
        _names = f"{_names}, {ACCUMULATE}"
    writing[_layout.name] = register(
        f"{_name}_out", f"({_places}, *, {_names}) -> ()", *map(_writing, _functions)
    )
