"""Plain functions applied to sums, element by element: what :mod:`cute_gemm.epilogue` becomes in a kernel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64

from .value import Place


@dataclass(frozen=True)
class FunctionValue:
    """A value that applies functions, one after the other, each to what the one before made and to operands.

    Args:
        stages: functions, and for each the kinds of its operands, by the names of
            :mod:`cute_gemm.epilogue.operands`.
    """

    stages: tuple[tuple[Callable[..., Any], tuple[str, ...]], ...]

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

    def __call__(self, sums: cute.Tensor, place: Place, operands: tuple, fetched) -> cute.Tensor:
        """The sums, each replaced by what becomes of it."""
        kinds = [kind for _, kinds in self.stages for kind in kinds]
        rows: dict[tuple[int, int], Any] = {}
        for first in range(0, cute.size(sums), 4):
            # Registers i and i + 1 are columns of a row, i + 2 and i + 3 the same of the row eight below.
            columns = [
                [of_column(kind, each, place, first + j) for kind, each in zip(kinds, operands, strict=True)]
                for j in range(2)
            ]
            for half in range(2):
                element = first + 2 * half
                own = []
                for number, (kind, each) in enumerate(zip(kinds, operands, strict=True)):
                    if kind in BY_ROW and (number, half) not in rows:
                        rows[number, half] = BY_ROW[kind](each, place, element)
                    if kind == "like_out":
                        own.append(pair_at(each, rows[number, half], place.column_of(element)))
                    elif kind == "per_row":
                        own.append((rows[number, half],) * 2)
                    else:
                        own.append((columns[0][number], columns[1][number]))
                for j in range(2):
                    sums[element + j] = self.applied(sums[element + j], [pair[j] for pair in own])
        return sums

    def applied(self, x: Float32, values: list) -> Float32:
        """What becomes of one sum, given a number for each operand."""
        for function, kinds in self.stages:
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


def row_address(operand: cute.Tensor, place: Place, element: int) -> Int64:
    """The address of an element's row."""
    row = cutlass.min(place.row_of(element), operand.shape[-2] - 1)
    matrix = (place.m_group,) if len(operand.shape) == 3 else ()
    return cute.domain_offset((*matrix, row, 0), operand).iterator.toint()


BY_ROW = {"per_row": of_row, "like_out": row_address}
"""What of operands depends on an element's row, and is the same for all of it."""


def pair_at(operand: cute.Tensor, row: Int64, column: Int32) -> tuple[Float32, Float32]:
    """The numbers of a column and of the next, of a row that begins at an address, by one load."""
    dtype = operand.element_type
    align = dtype.width // 4
    address = row + Int64(cutlass.min(column, operand.shape[-1] - 2)) * (align // 2)
    pointer = cute.make_ptr(dtype, address, cutlass.AddressSpace.gmem, assumed_align=align)
    pair = cute.make_rmem_tensor(2, dtype)
    cute.autovec_copy(cute.make_tensor(pointer, cute.make_layout(2)), pair)
    return pair[0].to(Float32), pair[1].to(Float32)
