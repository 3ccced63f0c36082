"""An epilogue: functions that sums go through before they are stored, quantised or not."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from torch import Tensor

from ..contract import PLAIN, Call, ResultForm
from ..plan.quantizer import BLOCK, INTERLEAVE
from ..runtime.applied import Applied
from . import functions
from .functions import Function
from .operands import Operand, of_argument
from .probe import examine


@dataclass(frozen=True, eq=False)
class Stage:
    """A function of the value so far and of operands.

    Args:
        function, operands: as said.
        takes: columns of the value that make one: 1, or 2, a gate's and what it opens for.
        turn: columns of either at a turn then.
    """

    function: Function
    operands: tuple[Operand, ...]
    takes: int = 1
    turn: int = INTERLEAVE

    @property
    def names(self) -> tuple[str, ...]:
        """Of the operands, as the function calls them."""
        return tuple(inspect.signature(self.function).parameters)[self.takes :]


@dataclass(frozen=True, eq=False)
class Epilogue:
    """What becomes of sums: each stage takes what the one before made. ``|`` puts two in a row."""

    stages: tuple[Stage, ...] = ()

    @overload
    def __or__(self, other: QuantizingEpilogue) -> QuantizingEpilogue: ...

    @overload
    def __or__(self, other: Epilogue) -> Epilogue: ...

    def __or__(self, other: Epilogue) -> Epilogue:
        return self.then(other) if isinstance(other, Epilogue) else NotImplemented

    @overload
    def then(self, other: QuantizingEpilogue) -> QuantizingEpilogue: ...

    @overload
    def then(self, other: Epilogue) -> Epilogue: ...

    def then(self, other: Epilogue) -> Epilogue:
        """``self | other``, which Dynamo of torch 2.8 does not trace.

        Raises:
            TypeError: this one quantises.
            ValueError: both make one column of two.
        """
        stages = self.stages + other.stages
        gated = [stage for stage in stages if stage.takes > 1]
        if len(gated) > 1:
            names = " and ".join(stage.function.__name__.lstrip("_") for stage in gated)
            raise ValueError(f"{names} both make one column of two; wanted one of them")
        return other.of(stages)

    def of(self, stages: tuple[Stage, ...]) -> Epilogue:
        """The same of other stages."""
        return Epilogue(stages)

    @property
    def operands(self) -> tuple[Operand, ...]:
        """Of all stages."""
        return tuple(operand for stage in self.stages for operand in stage.operands)

    @property
    def key(self) -> Hashable:
        """What a kernel that applies it depends on: code, what it closes over, kinds and types."""
        return tuple(
            (functions.code_of(stage.function), stage.takes, stage.turn, tuple(map(_kind_of, stage.operands)))
            for stage in self.stages
        )

    @property
    def form(self) -> ResultForm:
        """What it makes of a result, beside its type."""
        gated = [stage for stage in self.stages if stage.takes > 1]
        return ResultForm(gated[0].takes, turn=gated[0].turn) if gated else PLAIN

    @property
    def power_of_two_scales(self) -> bool:
        """Whether scales are rounded up to powers of two, if there are any."""
        return False

    @property
    def m_major_scales(self) -> bool:
        """Whether allocated scales, if there are any, are M-major."""
        return False

    @property
    def applied(self) -> Applied:
        """For kernels."""
        stages = tuple((stage.function, tuple(each.kind for each in stage.operands)) for stage in self.stages)
        gate = next((i for i, stage in enumerate(self.stages) if stage.takes > 1), None)
        values = tuple(each.value for each in self.operands)
        return Applied(self.key, stages, values, gate, self.form.turn, self.power_of_two_scales)

    def check(self, call: Call, has_memory: bool = True) -> None:
        """Sees to it that all operands fit a call.

        Args:
            call: as said.
            has_memory: as of :meth:`Operand.check`.

        Raises:
            TypeError, ValueError: one does not.
        """
        *rows, columns = call.shape_of_sums
        for stage in self.stages:
            columns //= stage.takes
            for name, operand in zip(stage.names, stage.operands, strict=True):
                operand.check(call, name, (*rows, columns), has_memory)

    def apply(self, sums: Tensor, out: Tensor | None, row_groups: Tensor | None) -> Tensor:
        """What becomes of FP32 sums, in torch.

        Args:
            sums: as said; of rows that are not stored it may be anything.
            out, row_groups: as of :meth:`Operand.along`.
        """
        for stage in self.stages:
            given = (sums,) if stage.takes == 1 else _in_turns(sums, stage.turn)
            made = stage.function(*given, *(each.along(sums, out, row_groups) for each in stage.operands))
            sums = torch.as_tensor(made, dtype=torch.float32, device=sums.device).expand_as(given[0])
        return sums


@dataclass(frozen=True, eq=False)
class QuantizingEpilogue(Epilogue):
    """One whose values are quantised to e4m3, with a scale for each row and 128 columns.

    Args:
        stages: as of :class:`Epilogue`.
        has_power_of_two_scales: whether scales are rounded up to powers of two.
        has_m_major_scales: whether allocated scales are M-major, as TMA loads them.
    """

    has_power_of_two_scales: bool = False
    has_m_major_scales: bool = False

    def then(self, other: Epilogue) -> QuantizingEpilogue:
        raise TypeError(
            "nothing follows quantize_1x128; wanted it last, such as `swiglu() | quantize_1x128()`"
        )

    def of(self, stages: tuple[Stage, ...]) -> QuantizingEpilogue:
        return QuantizingEpilogue(stages, self.has_power_of_two_scales, self.has_m_major_scales)

    @property
    def key(self) -> Hashable:
        return super().key, self.has_power_of_two_scales

    @property
    def form(self) -> ResultForm:
        return replace(super().form, is_quantized=True)

    @property
    def power_of_two_scales(self) -> bool:
        return self.has_power_of_two_scales

    @property
    def m_major_scales(self) -> bool:
        return self.has_m_major_scales


def _in_turns(sums: Tensor, turn: int) -> tuple[Tensor, Tensor]:
    """The columns of a gate, and those of what it opens for: ``[..., N / 2]`` each."""
    gate, other = sums.unflatten(-1, (-1, 2, turn)).unbind(-2)
    return gate.flatten(-2), other.flatten(-2)


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
    return _made_of(written, 1, "a sum")


TURNS = INTERLEAVE, BLOCK
"""Columns of a gate, and of what it opens for, that may alternate."""


def gated(written: Function) -> Callable[..., Epilogue]:
    """The same of a function of two sums, a gate's and what it opens for, and of operands.

    Columns of both come by turns, eight and eight, as :func:`cute_gemm.interleave_gate_up` lays them out: so
    the result has half as many. Operands are of the result's columns.

    Returns:
        As :func:`function`; what takes the operands also takes ``turn=``, 8 or 128 columns of either. With
        128 values must be quantised, as only then tiles have as many columns.

    Raises:
        TypeError: as :func:`function`.
    """
    return _made_of(written, 2, "two sums")


def _made_of(written: Function, takes: int, of: str) -> Callable[..., Epilogue]:
    if not inspect.isfunction(written):
        raise TypeError(
            f"{written!r} is no plain function; wanted one of {of} and of operands: `def f(x): ...`"
        )
    parameters = list(inspect.signature(written).parameters.values())
    names = [each.name for each in parameters[takes:]]
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) < takes or any(each.kind not in by_place for each in parameters):
        raise TypeError(
            f"{written.__name__}{inspect.signature(written)} is no function of {of} and of operands; wanted "
            f"arguments by place, {of.replace('a sum', 'the sum')} first"
        )
    examine(written)
    functions.register(written, takes)

    def made(*operands: Any, turn: int = INTERLEAVE) -> Epilogue:
        if turn not in TURNS[:takes]:
            raise ValueError(f"turn is {turn!r}; wanted {' or '.join(map(str, TURNS[:takes]))} columns")
        if len(operands) != len(names):
            wanted = f"operands {', '.join(names)}" if names else "no operand"
            raise TypeError(f"{written.__name__} was given {len(operands)} operands; wanted {wanted}")
        stage = Stage(written, tuple(of_argument(each, written) for each in operands), takes, turn)
        return Epilogue((stage,))

    made.__name__, made.__doc__ = written.__name__, written.__doc__
    return made


def _kind_of(operand: Operand) -> tuple[str, str]:
    if operand.value is None:
        return operand.kind, "out"
    # What is no tensor, though it should be, is like no other.
    return operand.kind, str(operand.value.dtype) if isinstance(operand.value, Tensor) else ""
