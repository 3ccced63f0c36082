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

    def __init__(self, is_condition: bool = False) -> None:
        self.is_condition = is_condition

    def number(self) -> Probe:
        """What a function makes of it."""
        if self.is_condition:
            raise Refused("it computes with a comparison; wanted it as the first argument of `where`")
        return Probe()

    def chosen(self, *values: Any) -> Probe:
        """What `where` makes of it and of two numbers."""
        if not self.is_condition:
            raise Refused("`where` is given a number; wanted a comparison first, such as `x > 0`")
        return Probe()._one(*values)

    def __bool__(self) -> bool:
        raise Refused(
            "it asks whether a value holds, as `if`, `and`, `max` and `x if c else y` do; wanted "
            "`epilogue.where(condition, x, y)`, `epilogue.maximum` and their like"
        )

    def _as_python(self, *_: Any) -> Any:
        raise Refused("it makes a Python number of a value, as `float` and functions of `math` do")

    __float__ = __int__ = __index__ = _as_python

    def _one(self, *others: Any) -> Probe:
        for other in (self, *others):
            if isinstance(other, Probe):
                other.number()
            elif not isinstance(other, (int, float)) or isinstance(other, bool):
                raise Refused(f"it computes with {type(other).__name__}; wanted numbers, or operands")
        return Probe()

    def _compared(self, other: Any) -> Probe:
        self._one(other)
        return Probe(is_condition=True)

    def _in_place(self, *_: Any) -> Any:
        raise Refused("it changes a value in place, as `x += y` does; wanted `x = x + y`")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _one
    __neg__ = __pos__ = _one
    __iadd__ = __isub__ = __imul__ = __itruediv__ = _in_place
    __lt__ = __le__ = __gt__ = __ge__ = _compared
    __eq__ = __ne__ = _compared  # type: ignore[assignment]


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
        said = type(made).__name__
    elif isinstance(made, Probe) and made.is_condition:
        said = "a comparison"
    else:
        return
    raise TypeError(f"{function.__name__} cannot be an epilogue: it returns {said}; wanted a number")
