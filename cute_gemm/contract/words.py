"""How arguments are spelled in messages: their names, their shapes, and the calls that make them.

A message names the argument, what it was, what is wanted and, where there is one, the call that makes it
right.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ..plan.recipe import FP8_1D1D, WHOLE, Recipe
from ..plan.recipe import FP8_1D2D as RECIPE

_QUANTIZERS = {"a": "quantize_1x128", "b": "quantize_128x128"}


def _blocks(dimension: str, size: int) -> str:
    return "1" if size == WHOLE else dimension if size == 1 else f"ceil({dimension} / {size})"


@functools.cache
def _shapes(recipe: Recipe) -> dict[tuple[str, int], str]:
    n, k = _blocks("N", recipe.scale_n), _blocks("K", recipe.scale_k)
    return {
        ("a", 2): "[M, K]",
        ("b", 2): "[N, K]",
        ("out", 2): "[M, N]",
        ("sa", 2): f"[{_blocks('M', recipe.scale_m)}, {k}]",
        ("sb", 2): f"[{n}, {k}]",
        ("a", 3): "[G, capacity, K]",
        ("b", 3): "[G, N, K]",
        ("out", 3): "[G, capacity, N]",
        ("sa", 3): f"[G, {_blocks('capacity', recipe.scale_m)}, {k}]",
        ("sb", 3): f"[G, {n}, {k}]",
    }


def symbolic_shape(name: str, rank: int, recipe: Recipe = RECIPE) -> str:
    """The shape that an argument has in the documentation, such as ``[M, K]``."""
    return _shapes(recipe)[name, rank]


def quantize_call(name: str, source: str, recipe: Recipe = RECIPE) -> str:
    """The statement that makes operand ``name`` and its scales from ``source``."""
    by = f"quantize_{recipe.name}"
    if recipe in (RECIPE, FP8_1D1D):
        by = f"cute_gemm.{_QUANTIZERS['a' if recipe.scale_n == 1 else name]}"
    return f"{name}, s{name} = {by}({source})"


def allocate(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> str:
    """The call that makes a result."""
    call = f"torch.empty({tuple(shape)}, dtype={dtype}, device={str(device)!r})"
    return f"`{call}`, or leave `out` away"


def remake(name: str, x: Tensor, method: str) -> str:
    """How to get a usable tensor: a copy of an input, but fresh memory for a result."""
    if name.startswith("out"):
        return allocate(x.shape, x.dtype, x.device).replace("`out`", f"`{name}`")
    return f"`{name}.{method}()`"


def kind(value: object) -> str:
    """What something is that is no tensor."""
    return "None" if value is None else f"a {type(value).__module__}.{type(value).__qualname__}"


def sketch(x: Tensor) -> str:
    """What a tensor is, without its values."""
    return f"{x.dtype} of shape {tuple(x.shape)} on {x.device}"


def place(x: Tensor) -> str:
    """Where a tensor lies."""
    size = f"{x.element_size()}-byte elements"
    return f"address {x.data_ptr():#x}, shape {tuple(x.shape)}, strides {x.stride()} of {size}"
