"""An epilogue: functions that a sum goes through before it is stored."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..contract import Call
from ..runtime.epilogued import Applied
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
            sums = stage.function(sums, *(each.along(out, row_groups) for each in stage.operands))
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


def _code_of(written: Function, seen: tuple[Any, ...] = ()) -> Hashable:
    """A function by its code and by what it refers to that is no module: numbers, and other functions.

    Raises:
        TypeError: it refers to something else, whose value may change.
    """
    code = getattr(written, "__code__", None)
    if code is None or written in seen:
        return written
    closed = zip(code.co_freevars, (cell.cell_contents for cell in written.__closure__ or ()), strict=True)
    named = ((name, written.__globals__[name]) for name in code.co_names if name in written.__globals__)
    found = []
    for name, value in (*closed, *named):
        if isinstance(value, Tensor):
            raise TypeError(
                f"{written.__name__} refers to the tensor {name}; wanted it as an operand, such as "
                f"`epilogue.per_column({name})`"
            )
        if inspect.isfunction(value):
            found.append((name, _code_of(value, (*seen, written))))
        elif isinstance(value, (int, float, str, type(None))):
            found.append((name, value))
        elif not inspect.ismodule(value) and not callable(value):
            raise TypeError(f"{written.__name__} refers to {name}, {type(value).__name__}; wanted a number")
    return code, written.__defaults__, tuple(found)
