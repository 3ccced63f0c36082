"""What a function of an epilogue is given beside the sum, read from an operand by where a register lies.

A reader is made for an operand and a place, and asked for pairs of registers: two columns of a row, which
registers ``element`` and ``element + 1`` are of, ``element`` being even. Rows and columns may lie beyond the
last; then others are read. The kinds are those of :mod:`cute_gemm.epilogue.operands`.

Before a tile's main loop ``fetch`` asks caches for what the tile will need: where every load of an epilogue waits
for memory, bias and SiLU cost twice as much (docs/performance.md, 81).
"""

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64, const_expr

from ..sm90.threads import WARPGROUP
from .value import Place, Shape

Pair = tuple[Any, Any]

SECTOR = 32
"""Bytes that a cache fetches at once."""


class Number:
    """One for all, as it came."""

    def __init__(self, operand: Any, place: Place):
        self.value = operand

    @staticmethod
    def fetch(operand: Any, place: Place, shape: Shape) -> None:
        """Nothing."""

    def pair(self, element: int) -> Pair:
        return self.value, self.value


class Scalar(Number):
    """One for all, in memory."""

    def __init__(self, operand: cute.Tensor, place: Place):
        self.value = operand[0].to(Float32)

    @staticmethod
    def fetch(operand: cute.Tensor, place: Place, shape: Shape) -> None:
        fetch(operand.iterator.toint(), "L1")


class PerRow:
    """One for each row; a thread has two of them."""

    def __init__(self, operand: cute.Tensor, place: Place):
        self.operand, self.place = operand, place
        self.found: dict[int, Float32] = {}

    @staticmethod
    def fetch(operand: cute.Tensor, place: Place, shape: Shape) -> None:
        matrix = (place.m_group,) if len(operand.shape) == 2 else ()
        fetch_vector(operand, address_of(operand, *matrix, 0), place.first_row, shape[0], place.thread)

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
        self.row = self.begin(operand, place)
        self.last: tuple[int, Pair] = -1, (None, None)

    @staticmethod
    def fetch(operand: cute.Tensor, place: Place, shape: Shape) -> None:
        begin = PerColumn.begin(operand, place)
        fetch_vector(operand, begin, place.first_column, shape[1], place.thread)

    @staticmethod
    def begin(operand: cute.Tensor, place: Place) -> Int64:
        """The address of the first number."""
        return address_of(operand, *((place.group, 0) if len(operand.shape) == 2 else (0,)))

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

    @staticmethod
    def fetch(operand: cute.Tensor, place: Place, shape: Shape) -> None:
        matrix = (place.m_group,) if len(operand.shape) == 3 else ()
        fetch_matrix(operand, matrix, place, shape)

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


def fetch_vector(operand: cute.Tensor, begin: Int64, first: Int32, count: int, thread: Int32) -> None:
    """Asks L1 for so many numbers from the ``first`` on, of those that begin at an address."""
    size = operand.element_type.width // 8
    sectors = -(-count * size // SECTOR)
    index = first + thread % sectors * (SECTOR // size)
    fetch(begin + Int64(cutlass.min(index, operand.shape[-1] - 1)) * size, "L1")


@cute.jit
def fetch_matrix(operand: cute.Tensor, matrix: tuple, place: Place, shape: cutlass.Constexpr[Shape]):
    """Asks L2 for the rows of a place that are stored."""
    rows, columns = shape
    size = const_expr(operand.element_type.width // 8)
    sectors = const_expr(-(-columns * size // SECTOR))
    for first in cutlass.range_constexpr(0, rows * sectors, WARPGROUP):
        number = first + place.thread % WARPGROUP
        row = place.first_row + number // sectors
        column = place.first_column + number % sectors * (SECTOR // size)
        if row < cutlass.min(place.row_end, operand.shape[-2]) and column < operand.shape[-1]:
            fetch(address_of(operand, *matrix, row, column), "L2")


def fetch(address: Int64, level: str) -> None:
    """Asks a cache for the sector of an address."""
    pointer = cute.make_ptr(cutlass.Uint8, address, cutlass.AddressSpace.gmem)
    cute.arch.prefetch(pointer.to_llvm_ptr(), cache_level=level)
