"""What functions of an epilogue compute with: of torch's tensors on the CPU, of registers in a kernel.

Numbers are FP32. Beside these functions there are the operators ``+ - * /``, comparisons for :func:`where`,
and Python's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .probe import Probe

__all__ = ["clamp", "erf", "exp", "log", "maximum", "minimum", "rsqrt", "sigmoid", "sqrt", "tanh", "where"]


def exp(x: Any) -> Any:
    """e to the power of ``x``; in a kernel to about 2^-22, times the magnitude of ``x``."""
    if _is_in_kernel(x):
        return _of_one(x * math.log2(math.e), "exp2")
    return _of_one(x, "exp")


def log(x: Any) -> Any:
    """The natural logarithm; in a kernel to about 2^-22."""
    if _is_in_kernel(x):
        return _of_one(x, "log2") * math.log(2)
    return _of_one(x, "log")


def sqrt(x: Any) -> Any:
    """The square root; in a kernel to about 2^-22."""
    return _of_one(x, "sqrt")


def rsqrt(x: Any) -> Any:
    """One over the square root; in a kernel to about 2^-22."""
    return _of_one(x, "rsqrt")


def tanh(x: Any) -> Any:
    """The hyperbolic tangent; in a kernel by one instruction, to 2^-11 of its value."""
    return _of_one(x, "tanh")


def erf(x: Any) -> Any:
    """The error function."""
    return _of_one(x, "erf", is_approximate=False)


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    if not _is_in_kernel(x):
        return _of_one(x, "sigmoid")
    from cutlass.cute.arch import rcp_approx

    return rcp_approx(1.0 + _of_one(x * -math.log2(math.e), "exp2"))


def maximum(x: Any, y: Any) -> Any:
    """The larger one; NaN where one is."""
    return _of_two(x, y, torch.maximum, "max")


def minimum(x: Any, y: Any) -> Any:
    """The smaller one; NaN where one is."""
    return _of_two(x, y, torch.minimum, "min")


def clamp(x: Any, low: Any, high: Any) -> Any:
    """``x``, but at least ``low`` and at most ``high``."""
    return minimum(maximum(x, low), high)


def where(condition: Any, x: Any, y: Any) -> Any:
    """``x`` where the condition, a comparison, holds, else ``y``: an `if` would need to know it."""
    if isinstance(condition, bool):
        return x if condition else y
    if isinstance(condition, Probe):
        return condition.chosen(x, y)
    if isinstance(condition, Tensor):
        return torch.where(condition, *(_as_tensor(each, condition) for each in (x, y)))
    import cutlass

    return cutlass.Float32(cutlass.select_(condition, _number(x), _number(y)))


def _is_in_kernel(x: Any) -> bool:
    return not isinstance(x, (Tensor, Probe, int, float))


def _as_tensor(x: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float32, device=like.device)


def _of_one(x: Any, name: str, is_approximate: bool = True) -> Any:
    if isinstance(x, Probe):
        return x.number()
    if isinstance(x, Tensor):
        return getattr(torch, name)(x)
    if isinstance(x, (int, float)):
        return getattr(torch, name)(torch.tensor(float(x), dtype=torch.float32, device="cpu")).item()
    from cutlass.cute import math as of_dsl

    # PTX's approximations know NaN and infinities. What the DSL calls fast math supposes that there are none.
    how = {"approx": True} if is_approximate else {}
    # Of results below 2^-126 it would be several instructions.
    more = {"ftz": True} if name == "exp2" else {}
    return getattr(of_dsl, name)(_number(x), **how, **more)


def _of_two(x: Any, y: Any, of_torch: Callable[[Tensor, Tensor], Tensor], name: str) -> Any:
    for each in (x, y):
        if isinstance(each, Probe):
            return each.number()
    for each in (x, y):
        if isinstance(each, Tensor):
            return of_torch(_as_tensor(x, each), _as_tensor(y, each))
    if isinstance(x, (int, float)) and isinstance(y, (int, float)):
        return of_torch(*(torch.tensor(float(each), device="cpu") for each in (x, y))).item()
    import cutlass

    return getattr(cutlass, name)(_number(x), _number(y))


def _number(x: Any) -> Any:
    import cutlass

    return cutlass.Float32(x)
