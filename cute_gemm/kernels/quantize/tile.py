"""Tiles of 128 x 128 elements in the registers of 256 threads.

A thread has 16 columns of four rows: eight lanes have a row, in pieces as in :mod:`.by_rows`, and rows that
follow each other are one thread's, so that what is written across rows comes in words of four.
"""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32, Int64, Uint32

from ...plan.quantizer import PIECE
from ..sm90.threads import WARP
from .elements import floats_of
from .memory import address_of, load_from, store_if

SIDE = 128
LANES = 8
"""Threads that have a row."""

OWN = SIDE // LANES
"""Elements of a row that a thread has."""

ROWS = 4
"""Rows that a thread has."""

THREADS = SIDE // ROWS * LANES
WARPS = THREADS // WARP


@dataclass(frozen=True)
class TilePart:
    """What the calling thread has of a tile.

    Args:
        dtype: of the elements.
        row, column: of its first element.
        lane: among those that have the same rows.
        is_whole: whether matrices have all rows of a thread, or none.
    """

    dtype: type
    row: Int32
    column: Int32
    lane: Int32
    is_whole: bool

    @staticmethod
    def of(dtype: type, thread: Int32, first: Int32, k_tile: Int32, is_whole: bool = False) -> "TilePart":
        """Of a tile whose first row is ``first``."""
        lane = thread % LANES
        row = first + thread // LANES * ROWS
        return TilePart(dtype, row, k_tile * SIDE + lane * (PIECE * 8 // dtype.width), lane, is_whole)

    @property
    def piece(self) -> int:
        """Elements of a piece."""
        return PIECE * 8 // self.dtype.width

    @property
    def pieces(self) -> int:
        """Pieces of a row."""
        return OWN // self.piece

    def column_of(self, piece: int) -> Int32:
        """The first column of a piece."""
        return self.column + piece * LANES * self.piece

    @cute.jit
    def load(self, mX: cute.Tensor) -> cute.Tensor:
        """Its elements (words, rows), as 32-bit words; zeros where there are none."""
        words = cute.make_rmem_tensor((PIECE // 4, self.pieces, ROWS), Uint32)
        words.fill(0)
        rows = self.rows_of(mX)
        for i in cutlass.range_constexpr(ROWS):
            for piece in cutlass.range_constexpr(self.pieces):
                if self.is_in(mX, i, piece):
                    load_from(words[None, piece, i], rows[i] + piece * LANES * PIECE)
        return cute.group_modes(words, 0, 2)

    def words_of(self, words: cute.Tensor, i: int, piece: int) -> cute.Tensor:
        """The words of a piece of row ``i``."""
        size = PIECE // 4
        return cute.make_tensor(words[None, i].iterator + piece * size, cute.make_layout(size))

    @cute.jit
    def floats_of(self, words: cute.Tensor, piece: cutlass.Constexpr[int]) -> cute.Tensor:
        """FP32 elements (columns, rows) of a piece."""
        values = cute.make_rmem_tensor((self.piece, ROWS), Float32)
        for i in cutlass.range_constexpr(ROWS):
            values[None, i].store(floats_of(self.words_of(words, i, piece), self.dtype).load())
        return values

    def rows_of(self, matrix: cute.Tensor) -> list[Int64]:
        """Addresses of its first element in each row of a matrix: one multiplication for all."""
        found = [address_of(matrix, (self.row, self.column))]
        step = Int64(matrix.stride[0]) * (matrix.element_type.width // 8)
        while len(found) < ROWS:
            found.append(found[-1] + step)
        return found

    def store(self, quantized: cute.Tensor, mQ: cute.Tensor, first: Int64, i: int, piece: int):
        """Writes what became of a piece of row ``i``, of which the first element belongs at an address."""
        store_if(self.is_in(mQ, i, piece), quantized, first + piece * LANES * self.piece)

    def is_in(self, matrix: cute.Tensor, i: int, piece: int) -> Boolean:
        """Whether a matrix has a piece of row ``i``."""
        row = self.row if self.is_whole else self.row + i
        return (row < matrix.shape[0]) & (self.column_of(piece) < matrix.shape[1])
