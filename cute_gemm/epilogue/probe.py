"""What a function of an epilogue may do, found out when it is written: it is called once with probes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


class Refused(TypeError):
    """It does something that a kernel cannot."""


class Probe:
    """Stands for a number, or for a condition, that only a kernel will know."""

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise Refused(
            "it asks whether a value holds, as `if`, `and`, `max` and `x if c else y` do; wanted "
            "`epilogue.where(condition, x, y)`, `epilogue.maximum` and their like"
        )

    def _as_python(self, *_: Any) -> Any:
        raise Refused("it makes a Python number of a value, as `float` and functions of `math` do")

    __float__ = __int__ = __index__ = _as_python

    def _one(self, *others: Any) -> Probe:
        for other in others:
            if not isinstance(other, (Probe, int, float)):
                raise Refused(f"it computes with {type(other).__name__}; wanted numbers, or operands")
        return Probe()

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _one
    __neg__ = __pos__ = _one
    __lt__ = __le__ = __gt__ = __ge__ = _one
    __eq__ = __ne__ = _one  # type: ignore[assignment]


def examine(function: Callable[..., Any]) -> None:
    """Calls a function with probes.

    Raises:
        TypeError: it does what no kernel can do, and how else to say it.
    """
    count = len(inspect.signature(function).parameters)
    try:
        made = function(*(Probe() for _ in range(count)))
    except Exception as error:
        raise TypeError(
            f"{function.__name__} cannot be an epilogue: {error or type(error).__name__}. It may use "
            "+ - * /, comparisons for `where`, numbers, and the functions of cute_gemm.epilogue"
        ) from error
    if not isinstance(made, (Probe, int, float)) or isinstance(made, bool):
        raise TypeError(
            f"{function.__name__} cannot be an epilogue: it returns {type(made).__name__}; wanted a number"
        )
