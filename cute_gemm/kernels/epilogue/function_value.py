"""Plain functions applied to sums, element by element: what :mod:`cute_gemm.epilogue` becomes in a kernel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cutlass
import cutlass.cute as cute
from cutlass import Float32

from ...plan.quantizer import INTERLEAVE
from ..sm90.mma import columns_of
from .store import columns
from .value import Place

Stage = tuple[Callable[..., Any], tuple[str, ...]]

_MOST_AT_ONCE = 32
"""Registers whose numbers of D's shape are loaded at once: with more of them, wide tiles spill."""


@dataclass(frozen=True)
class FunctionValue:
    """A value that applies functions, one after the other, each to what the one before made and to operands.

    Args:
        stages: functions, and for each the kinds of its operands, by the names of
            :mod:`cute_gemm.epilogue.operands`.
    """

    stages: tuple[Stage, ...]

    unit: ClassVar[int] = 8
    width: ClassVar[int] = 32

    @property
    def tensors(self) -> int:
        """As many as all stages have operands; a number counts as one."""
        return sum(len(kinds) for _, kinds in self.stages)

    def out_columns(self, n):
        """As many."""
        return n

    def operands(self, *tensors) -> tuple:
        """As they came."""
        return tensors

    def prefetch(self, operands: tuple, place: Place) -> None:
        """Nothing."""

    def given(self, sums: cute.Tensor, element: int) -> Any:
        """What of the sums a register of the result is made of."""
        return sums[element]

    def __call__(self, sums: cute.Tensor, place: Place, operands: tuple, fetched) -> cute.Tensor:
        """What becomes of the sums, in their place."""
        made, place = columns(sums, 0, self.out_columns(columns_of(sums))), place.made_by(self)
        kinds = [kind for _, kinds in self.stages for kind in kinds]
        rows: dict[tuple[int, int], Any] = {}
        for first in range(0, cute.size(made), 4):
            if "like_out" in kinds and first and first % _MOST_AT_ONCE == 0:
                cute.arch.sync_warp()
            # Registers i and i + 1 are columns of a row, i + 2 and i + 3 the same of the row eight below.
            by_column = [
                [of_column(kind, each, place, first + j) for kind, each in zip(kinds, operands, strict=True)]
                for j in range(2)
            ]
            for half in range(2):
                element = first + 2 * half
                own = []
                for number, (kind, each) in enumerate(zip(kinds, operands, strict=True)):
                    if kind == "like_out":
                        own.append(pair_at(each, place, element))
                    elif kind == "per_row":
                        if (number, half) not in rows:
                            rows[number, half] = of_row(each, place, element)
                        own.append((rows[number, half],) * 2)
                    else:
                        own.append((by_column[0][number], by_column[1][number]))
                for j in range(2):
                    given = self.given(sums, element + j)
                    made[element + j] = self.applied(given, [pair[j] for pair in own])
        return made

    def applied(self, x: Any, values: list) -> Float32:
        """What becomes of one sum, given a number for each operand."""
        return chained(self.stages, x, values)


@dataclass(frozen=True)
class GatedValue(FunctionValue):
    """The same, where the first function makes a column of two: a gate's, and what it opens for.

    Of either, as many columns as a turn has alternate. Of every eight neighbours a thread has two, so it has
    both columns; and of results it has what a thread of a narrower fragment would have.

    Args:
        turn: a multiple of 8.
    """

    turn: int = INTERLEAVE

    @property
    def unit(self) -> int:
        """A turn of either."""
        return 2 * self.turn

    def out_columns(self, n):
        """Half as many."""
        return n // 2

    def given(self, sums: cute.Tensor, element: int) -> tuple[Float32, Float32]:
        """The gate's column, and the other."""
        size = self.turn // 2  # registers
        number, own = divmod(element, size)
        gate = 2 * size * number + own
        return sums[gate], sums[gate + size]

    def applied(self, x: tuple[Float32, Float32], values: list) -> Float32:
        """What becomes of both."""
        (function, kinds), *others = self.stages
        made = Float32(function(*x, *values[: len(kinds)]))
        return chained(others, made, values[len(kinds) :])


def chained(stages: Sequence[Stage], x: Float32, values: list) -> Float32:
    """What functions make of a number, given one for each of their operands."""
    for function, kinds in stages:
        own, values = values[: len(kinds)], values[len(kinds) :]
        x = Float32(function(x, *own))
    return x


def of_column(kind: str, operand: Any, place: Place, element: int) -> Any:
    """A number that does not depend on an element's row; None of operands that do."""
    if kind == "number":
        return operand
    if kind == "scalar":
        return operand[0].to(Float32)
    if kind not in ("per_column", "per_group_column"):
        return None
    # A tile's columns may lie beyond the last.
    column = cutlass.min(place.column_of(element), operand.shape[-1] - 1)
    if kind == "per_column":
        return operand[column].to(Float32)
    return operand[place.group, column].to(Float32)


def of_row(operand: cute.Tensor, place: Place, element: int) -> Float32:
    """The number of an element's row."""
    row = cutlass.min(place.row_of(element), operand.shape[-1] - 1)
    if len(operand.shape) == 1:
        return operand[row].to(Float32)
    return operand[place.m_group, row].to(Float32)


def pair_at(operand: cute.Tensor, place: Place, element: int) -> tuple[Float32, Float32]:
    """The numbers of an element and of the next in its row, by one load."""
    row = cutlass.min(place.row_of(element), operand.shape[-2] - 1)
    column = cutlass.min(place.column_of(element), operand.shape[-1] - 2)
    matrix = (place.m_group,) if len(operand.shape) == 3 else ()
    dtype = operand.element_type
    address = cute.domain_offset((*matrix, row, column), operand).iterator.toint()
    align = dtype.width // 4
    pointer = cute.make_ptr(dtype, address, cutlass.AddressSpace.gmem, assumed_align=align)
    pair = cute.make_rmem_tensor(2, dtype)
    cute.autovec_copy(cute.make_tensor(pointer, cute.make_layout(2)), pair)
    return pair[0].to(Float32), pair[1].to(Float32)
