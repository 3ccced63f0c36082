"""An epilogue: functions that a sum goes through before it is stored."""

from __future__ import annotations

import dis
import functools
import inspect
import math as numbers
import sys
import types
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..contract import Call, words
from ..runtime.epilogued import Applied
from . import math as own_math
from .operands import NUMBER, Operand, of_argument
from .probe import examine

Function = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Stage:
    """A function of the value so far and of operands."""

    function: Function
    operands: tuple[Operand, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the operands, as the function calls them."""
        return tuple(inspect.signature(self.function).parameters)[1:]


@dataclass(frozen=True, eq=False)
class Epilogue:
    """What becomes of sums: each stage takes what the one before made. ``|`` puts two in a row."""

    stages: tuple[Stage, ...] = ()

    def __or__(self, other: Epilogue) -> Epilogue:
        if not isinstance(other, Epilogue):
            return NotImplemented
        return Epilogue(self.stages + other.stages)

    @property
    def operands(self) -> tuple[Operand, ...]:
        """Of all stages."""
        return tuple(operand for stage in self.stages for operand in stage.operands)

    @property
    def key(self) -> Hashable:
        """What a kernel that applies it depends on: code, what it closes over, kinds and types."""
        return tuple(
            (_code_of(stage.function), tuple(map(_kind_of, stage.operands))) for stage in self.stages
        )

    @property
    def applied(self) -> Applied:
        """For kernels."""
        stages = tuple((stage.function, tuple(each.kind for each in stage.operands)) for stage in self.stages)
        return Applied(self.key, stages, tuple(each.value for each in self.operands))

    def check(self, call: Call) -> None:
        """Sees to it that all operands fit a call.

        Raises:
            TypeError, ValueError: one does not.
        """
        for stage in self.stages:
            for name, operand in zip(stage.names, stage.operands, strict=True):
                operand.check(call, name)

    def apply(self, sums: Tensor, out: Tensor | None, row_groups: Tensor | None) -> Tensor:
        """What becomes of FP32 sums of D's shape, in torch.

        Args:
            sums: as said; of rows that are not stored it may be anything.
            out, row_groups: as of :meth:`Operand.along`.
        """
        for stage in self.stages:
            made = stage.function(sums, *(each.along(sums, out, row_groups) for each in stage.operands))
            sums = torch.as_tensor(made, dtype=torch.float32, device=sums.device).expand_as(sums)
        return sums


def function(written: Function) -> Callable[..., Epilogue]:
    """Makes an epilogue of a plain function of the sum and of operands.

    The function is applied to each element. It computes with operators, Python's numbers and the functions of
    :mod:`cute_gemm.epilogue.math`; it may call other such functions, and close over numbers. It is traced
    once, so an `if` may depend on those numbers alone: of a value use ``where``. Kernels are kept by its code
    and what it closes over, in this process and on disk.

    Returns:
        What takes the operands, and gives the epilogue.

    Raises:
        TypeError: it takes nothing, or other than arguments by place; or it does what a kernel cannot.
    """
    if not inspect.isfunction(written):
        raise TypeError(
            f"{written!r} is no plain function; wanted one of a sum and of operands: `def f(x): ...`"
        )
    parameters = list(inspect.signature(written).parameters.values())
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not parameters or any(each.kind not in by_place for each in parameters):
        raise TypeError(
            f"{written.__name__}{inspect.signature(written)} is no function of a sum and of operands; wanted "
            "arguments by place, the sum first"
        )
    examine(written)
    _code_of(written)

    def made(*operands: Any) -> Epilogue:
        names = [each.name for each in parameters[1:]]
        if len(operands) != len(names):
            wanted = f"operands {', '.join(names)}" if names else "no operand"
            raise TypeError(f"{written.__name__} was given {len(operands)} operands; wanted {wanted}")
        return Epilogue((Stage(written, tuple(of_argument(each, written) for each in operands)),))

    made.__name__, made.__doc__ = written.__name__, written.__doc__
    return made


def _kind_of(operand: Operand) -> tuple[str, str]:
    if operand.kind == NUMBER:
        return operand.kind, ""
    return operand.kind, "out" if operand.value is None else str(operand.value.dtype)


def _code_of(written: Function) -> Hashable:
    """A function by its code and by what it refers to: numbers, and other plain functions.

    Raises:
        TypeError: it refers to something else, whose value may change without being seen.
    """
    code = written.__code__
    closed = dict(zip(code.co_freevars, written.__closure__ or (), strict=True))
    named = {name: written.__globals__[name] for name in _globals_of(code) if name in written.__globals__}
    values = {name: cell.cell_contents for name, cell in closed.items()} | named
    values |= {f"a default of {written.__name__}": written.__defaults__ or ()}
    values |= written.__kwdefaults__ or {}
    return code, tuple((name, _value_of(written, name, value)) for name, value in values.items())


def _value_of(written: Function, name: str, value: Any) -> Hashable:
    if isinstance(value, (int, float, type(None))):
        # As keys, 0.0 and -0.0 and False are one.
        return type(value), repr(value)
    if isinstance(value, tuple):
        return tuple(_value_of(written, name, each) for each in value)
    if inspect.isfunction(value):
        return value.__qualname__ if value is written else _code_of(value)
    if value in (own_math, numbers, *_package()):
        return value.__name__
    if isinstance(value, Tensor):
        fix = f"wanted it as an operand, such as `epilogue.per_column({name})`"
    else:
        fix = "wanted a number, a tuple of them, or a plain function, by a name of its own"
    raise TypeError(f"{written.__name__} refers to {name}, {words.kind(value)}; {fix}")


@functools.cache
def _globals_of(code: types.CodeType) -> tuple[str, ...]:
    """Names that a function, and what is defined in it, looks up in its module."""
    found = {each.argval for each in dis.get_instructions(code) if each.opname in _LOADS}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= set(_globals_of(constant))
    return tuple(sorted(found))


_LOADS = ("LOAD_GLOBAL", "LOAD_NAME")


def _package() -> tuple[types.ModuleType, ...]:
    """Modules of the package, which functions may name."""
    return tuple(sys.modules[name] for name in ("cute_gemm", "cute_gemm.epilogue") if name in sys.modules)
