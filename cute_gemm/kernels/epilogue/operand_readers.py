"""What a function of an epilogue is given beside the sum, read from an operand by where a register lies.

A reader is made for an operand and a place, and asked for pairs of registers: two columns of a row, which
registers ``element`` and ``element + 1`` are of, ``element`` being even. Rows and columns may lie beyond the
last; then others are read. The kinds are those of :mod:`cute_gemm.epilogue.operands`.
"""

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64

from .value import Place

Pair = tuple[Any, Any]


class Number:
    """One for all, as it came."""

    def __init__(self, operand: Any, place: Place):
        self.value = operand

    def pair(self, element: int) -> Pair:
        return self.value, self.value


class Scalar(Number):
    """One for all, in memory."""

    def __init__(self, operand: cute.Tensor, place: Place):
        self.value = operand[0].to(Float32)


class PerRow:
    """One for each row; a thread has two of them."""

    def __init__(self, operand: cute.Tensor, place: Place):
        self.operand, self.place = operand, place
        self.found: dict[int, Float32] = {}

    def pair(self, element: int) -> Pair:
        half = element // 2 % 2
        if half not in self.found:
            row = cutlass.min(self.place.row_of(element), self.operand.shape[-1] - 1)
            matrix = (self.place.m_group,) if len(self.operand.shape) == 2 else ()
            self.found[half] = self.operand[(*matrix, row)].to(Float32)
        return self.found[half], self.found[half]


class PerColumn:
    """One for each column; registers four and four are of the same two."""

    def __init__(self, operand: cute.Tensor, place: Place):
        self.operand, self.place = operand, place
        self.row = address_of(operand, *((place.group, 0) if len(operand.shape) == 2 else (0,)))
        self.last: tuple[int, Pair] = -1, (None, None)

    def pair(self, element: int) -> Pair:
        if self.last[0] != element // 4:
            size = self.operand.element_type.width // 8
            self.last = element // 4, pair_at(self.operand, self.row, self.place.column_of(element), size)
        return self.last[1]


class LikeOut:
    """One for each element."""

    def __init__(self, operand: cute.Tensor, place: Place):
        self.operand, self.place = operand, place
        self.rows: dict[int, Int64] = {}

    def pair(self, element: int) -> Pair:
        half = element // 2 % 2
        if half not in self.rows:
            row = cutlass.min(self.place.row_of(element), self.operand.shape[-2] - 1)
            matrix = (self.place.m_group,) if len(self.operand.shape) == 3 else ()
            self.rows[half] = address_of(self.operand, *matrix, row, 0)
        both = self.operand.element_type.width // 4
        return pair_at(self.operand, self.rows[half], self.place.column_of(element), both)


READERS: dict[str, Any] = {
    "number": Number,
    "scalar": Scalar,
    "per_row": PerRow,
    "per_column": PerColumn,
    "per_group_column": PerColumn,
    "like_out": LikeOut,
}

READ_BY_COLUMN = {"per_column", "per_group_column", "like_out"}
"""Kinds of which something is loaded for each column."""


def address_of(operand: cute.Tensor, *place: Any) -> Int64:
    """Of an element."""
    return cute.domain_offset(place if len(place) > 1 else place[0], operand).iterator.toint()


def pair_at(operand: cute.Tensor, row: Int64, column: Int32, align: int) -> Pair:
    """The numbers of a column and of the next, of a row that begins at an address.

    Args:
        align: bytes that the address of the first is a multiple of: if of both, they are loaded at once.
    """
    dtype = operand.element_type
    # Columns come in eights, so both are there, or neither is.
    address = row + Int64(cutlass.min(column, operand.shape[-1] - 2)) * (dtype.width // 8)
    pointer = cute.make_ptr(dtype, address, cutlass.AddressSpace.gmem, assumed_align=align)
    pair = cute.make_rmem_tensor(2, dtype)
    cute.autovec_copy(cute.make_tensor(pointer, cute.make_layout(2)), pair)
    return pair[0].to(Float32), pair[1].to(Float32)
