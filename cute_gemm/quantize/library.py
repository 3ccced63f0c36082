"""Quantising as torch's dispatcher knows it: what compiled and exported calls are made of.

As for products (`ops/library.py`): one op returns new tensors, the other, with `_out` behind its
name, writes given ones, and an eager call does not come by here. Schemas are public: docs/torch_compile.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import library as torch_library

from ..contract import ambient
from ..runtime import torch_internals

NAMESPACE = "cute_gemm"

_SCALES = "bool power_of_two_scales=False, bool m_major_scales=False"
_GROUPS = "Tensor? valid_rows=None, Tensor? group_index=None, Tensor? offsets=None, SymInt alignment=1"
_ROWS = f"Tensor? rows=None, {_GROUPS}"
_COLUMNS = "Tensor? offsets=None, Tensor? ends=None"
_NORM = "Tensor x, Tensor weight, float eps"

SCHEMAS = {
    "quantize_1x128": f"(Tensor x, *, str source='plain', {_SCALES}, {_ROWS}) -> (Tensor, Tensor)",
    "quantize_1x128_out": (
        f"(Tensor x, Tensor(a!) out, Tensor(b!) scales_out, *, str source='plain', {_SCALES}, {_ROWS}) -> ()"
    ),
    "quantize_128x128": "(Tensor w, *, bool power_of_two_scales=False) -> (Tensor, Tensor)",
    "quantize_128x128_out": (
        "(Tensor w, Tensor(a!) out, Tensor(b!) scales_out, *, bool power_of_two_scales=False) -> ()"
    ),
    "quantize_both_ways": (f"(Tensor x, *, {_SCALES}, {_COLUMNS}) -> (Tensor, Tensor, Tensor, Tensor)"),
    "quantize_both_ways_out": (
        "(Tensor x, Tensor(a!) out, Tensor(b!) scales_out, Tensor(c!) out_t, Tensor(d!) scales_out_t, *, "
        f"{_SCALES}, {_COLUMNS}) -> ()"
    ),
    "rms_norm_quantize_1x128": f"({_NORM}, *, {_SCALES}, {_ROWS}) -> (Tensor, Tensor)",
    "rms_norm_quantize_1x128_out": (
        f"({_NORM}, Tensor(a!) out, Tensor(b!) scales_out, *, {_SCALES}, {_ROWS}) -> ()"
    ),
    "add_rms_norm_quantize_1x128": (
        f"({_NORM}, Tensor(a!) residual, *, {_SCALES}, {_GROUPS}) -> (Tensor, Tensor)"
    ),
    "add_rms_norm_quantize_1x128_out": (
        f"({_NORM}, Tensor(a!) residual, Tensor(b!) out, Tensor(c!) scales_out, *, {_SCALES}, {_GROUPS}) "
        "-> ()"
    ),
}
"""By the name of an op."""

_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)

_library = torch_library.Library(NAMESPACE, "FRAGMENT")
"""As long as it lives, the ops are registered."""

_IN_A_TRANSFORM = "FuncTorchDynamicLayerFrontMode"


def _refuse_transform(*arguments: Any, **named: Any) -> None:
    raise ValueError(ambient.in_a_transform("x"))


def register(schema: str, compute: Callable[..., Any], describe: Callable[..., Any]) -> Any:
    """Defines an op.

    Args:
        schema: its name, arguments and results, as torch writes them.
        compute: on tensors that are there.
        describe: of fake ones: what there will be, after the rules that can be judged without memory.
    """
    name = schema.partition("(")[0]
    _library.define(schema, tags=_TAGS)
    for key in ("CPU", "CUDA"):
        _library.impl(name, compute, key)
    torch_internals.register_fake(_library, f"{NAMESPACE}::{name}", describe)
    _library.impl(name, _refuse_transform, _IN_A_TRANSFORM)
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def is_needed(*tensors: Any) -> bool:
    """Whether a call becomes an op: it is traced, or its tensors stand for ones that will be there."""
    return torch.compiler.is_compiling() or isinstance(tensors[0], torch_internals.STAND_INS)
