"""What a function of an epilogue is given beside the sum, read from an operand by where a register lies.

What a tile needs of rows and columns is loaded before its main loop, a part by each lane, and handed round
when it is needed. Where each piece of a tile waits for loads of its own, bias and SiLU take half as long as a
product with K = 1024 (docs/performance.md, 81). What has D's shape is too much to keep, and only asked for.

A reader is made for an operand and a place, and asked for pairs of registers: two columns of a row, which
registers ``element`` and ``element + 1`` are of, ``element`` being even. Rows and columns may lie beyond the
last; then others are read. The kinds are those of :mod:`cute_gemm.epilogue.operands`.
"""

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64, const_expr

from ...plan.limits import MMA_M
from ..sm90.mma import QUAD, column_offset, row_offset
from ..sm90.threads import WARP, WARPGROUP
from .value import Place, Shape

Pair = tuple[Any, Any]

SECTOR = 32
"""Bytes that a cache fetches at once."""


class Number:
    """One for all, as it came.

    Args:
        operand: as a kernel has it.
        place: of register 0, by what the function makes.
        held: what :meth:`hold` returned for the whole tile; nothing where all is to be loaded here.
        moved: rows and columns from the warpgroup's first to those of ``place``.
    """

    def __init__(self, operand: Any, place: Place, held: list, moved: tuple[Int32, Int32]):
        self.operand, self.place, self.held, self.moved = operand, place, held, moved
        self.found: dict[int, Any] = {}

    @property
    def loads(self) -> bool:
        """Whether :meth:`pair` loads from memory."""
        return False

    @staticmethod
    def hold(operand: Any, place: Place, shape: Shape) -> list:
        """What a thread keeps throughout a tile's main loop, unconverted: that would wait for it."""
        return []

    def pair(self, element: int) -> Pair:
        """The numbers of two registers."""
        return self.operand, self.operand


class Scalar(Number):
    """One for all, in memory."""

    @staticmethod
    def hold(operand: cute.Tensor, place: Place, shape: Shape) -> list:
        return [operand[0]]

    def pair(self, element: int) -> Pair:
        number = (self.held[0] if self.held else self.operand[0]).to(Float32)
        return number, number


class PerRow(Number):
    """One for each row. Of 64 a thread needs two, and of its quad each lane holds one."""

    @staticmethod
    def hold(operand: cute.Tensor, place: Place, shape: Shape) -> list:
        number = place.thread % QUAD % (shape[0] // (MMA_M // 2))
        row = place.row + number // 2 * MMA_M + number % 2 * row_offset(2)
        return [PerRow.load(operand, place, row)]

    @staticmethod
    def load(operand: cute.Tensor, place: Place, row: Int32) -> Any:
        """The number of a row."""
        return operand[(*in_front(operand, place, 1), cutlass.min(row, operand.shape[-1] - 1))]

    def pair(self, element: int) -> Pair:
        half = row_offset(element)
        if half not in self.found:
            self.found[half] = self.number(element)
        return self.found[half], self.found[half]

    def number(self, element: int) -> Float32:
        """That of a register."""
        if not self.held:
            loaded: Float32 = self.load(self.operand, self.place, self.place.row_of(element)).to(Float32)
            return loaded
        lane = self.place.thread % WARP
        number = self.moved[0] // MMA_M * 2 + row_offset(element) // row_offset(2)
        return cute.arch.shuffle_sync(self.held[0].to(Float32), lane - lane % QUAD + number)


class PerColumn(Number):
    """One for each column. Of eight quads each holds a pair of every eighth eight, for all."""

    @property
    def loads(self) -> bool:
        return not self.held

    @staticmethod
    def hold(operand: cute.Tensor, place: Place, shape: Shape) -> list:
        column = place.column + place.thread % WARP // QUAD * 8
        eights = range(0, shape[1], 8 * WARP // QUAD)
        return [each for first in eights for each in PerColumn.load(operand, place, column + first)]

    @staticmethod
    def load(operand: cute.Tensor, place: Place, column: Int32) -> Pair:
        """The numbers of a column and of the next."""
        row = address_of(operand, *((place.group, 0) if len(operand.shape) == 2 else (0,)))
        return pair_at(operand, row, column, operand.element_type.width // 8)

    def pair(self, element: int) -> Pair:
        eight = column_offset(element) // 8
        if eight not in self.found:
            self.found[eight] = self.numbers(element, eight)
        found: Pair = self.found[eight]
        return found

    def numbers(self, element: int, eight: int) -> Pair:
        """Those of a register's two columns, which are of such an eight of the call's."""
        if not self.held:
            first, second = self.load(self.operand, self.place, self.place.column_of(element))
            return first.to(Float32), second.to(Float32)
        of_tile, quads = self.moved[1] // 8 + eight, WARP // QUAD
        lane = of_tile % quads * QUAD + self.place.thread % QUAD
        first, second = (at(self.held[i::2], of_tile // quads).to(Float32) for i in range(2))
        return cute.arch.shuffle_sync(first, lane), cute.arch.shuffle_sync(second, lane)


class LikeOut(Number):
    """One for each element."""

    @property
    def loads(self) -> bool:
        return True

    @staticmethod
    def hold(operand: cute.Tensor, place: Place, shape: Shape) -> list:
        ask_for(operand, place, shape)
        return []

    def pair(self, element: int) -> Pair:
        half = row_offset(element)
        if half not in self.found:
            row = cutlass.min(self.place.row_of(element), self.operand.shape[-2] - 1)
            self.found[half] = address_of(self.operand, *in_front(self.operand, self.place, 2), row, 0)
        both = self.operand.element_type.width // 4
        first, second = pair_at(self.operand, self.found[half], self.place.column_of(element), both)
        return first.to(Float32), second.to(Float32)


READERS: dict[str, type[Number]] = {
    "number": Number,
    "scalar": Scalar,
    "per_row": PerRow,
    "per_column": PerColumn,
    "per_group_column": PerColumn,
    "like_out": LikeOut,
}


@cute.jit
def ask_for(operand: cute.Tensor, place: Place, shape: cutlass.Constexpr[Shape]):
    """Has L2 fetch what of D's shape belongs to a place's rows, as far as they are stored."""
    rows, columns = shape
    size = const_expr(operand.element_type.width // 8)
    sectors = const_expr(-(-columns * size // SECTOR))
    for first in cutlass.range_constexpr(0, rows * sectors, WARPGROUP):
        number = first + place.thread % WARPGROUP
        row = place.first_row + number // sectors
        column = place.first_column + number % sectors * (SECTOR // size)
        if row < cutlass.min(place.row_end, operand.shape[-2]) and column < operand.shape[-1]:
            address = address_of(operand, *in_front(operand, place, 2), row, column)
            pointer = cute.make_ptr(cutlass.Uint8, address, cutlass.AddressSpace.gmem)
            cute.arch.prefetch(pointer.to_llvm_ptr(), cache_level="L2")


def in_front(operand: cute.Tensor, place: Place, dims: int) -> tuple:
    """Where what belongs to a place's matrix of D is, ahead of its own ``dims``; nothing if there is one."""
    return (place.m_group,) if len(operand.shape) > dims else ()


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
    return pair[0], pair[1]


def at(values: list, index: Int32) -> Any:
    """The one of registers that an index says, which folds where the compiler knows it."""
    found = values[0]
    for i, value in enumerate(values[1:], start=1):
        found = type(found)(cutlass.select_(index == i, value, found))
    return found
