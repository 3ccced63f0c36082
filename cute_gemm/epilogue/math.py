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

__all__ = ["clamp", "erf", "exp", "log", "maximum", "minimum", "rsqrt", "sigmoid", "sqrt", "tanh", "where"]


def exp(x: Any) -> Any:
    """e to the power of ``x``; in a kernel to 2 units in the last place."""
    return torch.exp(x) if isinstance(x, Tensor) else _dsl().exp(_number(x), fastmath=True)


def log(x: Any) -> Any:
    """The natural logarithm."""
    return torch.log(x) if isinstance(x, Tensor) else _dsl().log(_number(x), fastmath=True)


def sqrt(x: Any) -> Any:
    """The square root."""
    return torch.sqrt(x) if isinstance(x, Tensor) else _dsl().sqrt(_number(x), fastmath=True)


def rsqrt(x: Any) -> Any:
    """One over the square root."""
    return torch.rsqrt(x) if isinstance(x, Tensor) else _dsl().rsqrt(_number(x), fastmath=True)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent; in a kernel by one instruction, to 2^-11 of its value."""
    return torch.tanh(x) if isinstance(x, Tensor) else _dsl().tanh(_number(x), fastmath=True)


def erf(x: Any) -> Any:
    """The error function."""
    return torch.erf(x) if isinstance(x, Tensor) else _dsl().erf(_number(x))


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    if isinstance(x, Tensor):
        return torch.sigmoid(x)
    from cutlass.cute.arch import rcp_approx

    return rcp_approx(1.0 + _dsl().exp2(_number(x) * -math.log2(math.e), fastmath=True))


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
    if isinstance(condition, Tensor):
        return torch.where(condition, x, y)
    import cutlass

    return cutlass.Float32(cutlass.select_(condition, _number(x), _number(y)))


def _of_two(x: Any, y: Any, of_torch: Callable[[Tensor, Tensor], Tensor], name: str) -> Any:
    tensor = next((each for each in (x, y) if isinstance(each, Tensor)), None)
    if tensor is not None:
        x, y = (torch.as_tensor(each, dtype=torch.float32, device=tensor.device) for each in (x, y))
        return of_torch(x, y)
    import cutlass

    return getattr(cutlass, name)(_number(x), _number(y))


def _number(x: Any) -> Any:
    import cutlass

    return cutlass.Float32(x)


def _dsl() -> Any:
    from cutlass.cute import math as of_dsl

    return of_dsl
