"""What becomes of whole FP32 sums before they are converted and stored: bias, activation, scaling, ..."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from ...plan.limits import MMA_M
from ..sm90.mma import column_offset, columns_of, row_offset, thread_column, thread_row

Shape = tuple[int, int]
"""Rows and columns, known when a kernel is compiled."""


@dataclass(frozen=True)
class Place:
    """Where the sums of the calling thread lie: which row and column each register is.

    A row is one of matrix ``m_group`` of A and D; a column is one of the sum, so a row of B, of which
    matrix ``group`` is taken. Rows from ``row_end`` on are not stored, and columns may lie beyond the last: a
    value must clamp what it reads for them.
    """

    first_row: Int32  # of the fragment
    first_column: Int32
    row_end: Int32
    m_group: Int32
    group: Int32
    thread: Int32
    peers: Any = None
    """CTAs that have the other columns of a value's unit, :class:`.peers.Peers`; None where this
    one has all."""

    @staticmethod
    def of(tile, height: int, first: tuple, thread: Int32) -> "Place":
        """That of a fragment whose ``first`` row and column are given, for one ``thread``.

        Of a ``tile`` of fewer than 64 rows, 64 are multiplied: the others are not stored.
        """
        end = tile.row_end
        if height < MMA_M:
            end = tile.row + cutlass.min(end - tile.row, height)
        return Place(*first, end, tile.m_group, tile.group, thread)

    def moved(self, rows: Int32, columns: Int32) -> "Place":
        """The place of what lies so many rows and columns further."""
        return replace(self, first_row=self.first_row + rows, first_column=self.first_column + columns)

    def made_by(self, value: "Value") -> "Place":
        """Where what ``value`` makes of sums lies, in columns of its own."""
        return replace(self, first_column=value.out_columns(self.first_column))

    @property
    def row(self) -> Int32:
        """The row of register 0."""
        return thread_row(self.first_row, self.thread)

    @property
    def column(self) -> Int32:
        """The column of register 0."""
        return thread_column(self.first_column, self.thread)

    def row_of(self, element: int) -> Int32:
        """The row of a register: that of register 0 for 4 j and 4 j + 1, eight below for the other two."""
        return self.row + row_offset(element)

    def column_of(self, element: int) -> Int32:
        """The column of a register. Registers i and i + 4 are eight columns apart."""
        return self.column + column_offset(element)


class Value(Protocol):
    """A frozen dataclass of what is known when a kernel is compiled.

    Of its methods, those without a note run on the host. The kernel does not check whether a tensor of a
    value overlaps D. Where one does, a call may read only what the same call's sums replace: other elements
    may have been stored.
    """

    tensors: ClassVar[int]
    """Arguments of a call, behind all others, that :meth:`operands` is given."""

    unit: ClassVar[int]
    """Columns of the sum that one call must have together, from a multiple of them on: a multiple of 8.

    It divides a tile's columns, and what a store takes at once; and N, but where the value knows the last
    column.
    """

    part: ClassVar[int]
    """The same where :attr:`Place.peers` have the rest of a unit; :attr:`unit`, if they are not asked."""

    width: ClassVar[int]
    """Columns of the sum that a call has at most where rows are stored from registers, a multiple of
    :attr:`unit`; 0 for as many as a fragment has. What a value loads takes registers: with too many at once
    wide tiles spill."""

    def out_columns(self, n: int) -> int:
        """Columns of D that ``n`` columns of the sum make, for any multiple of :attr:`unit`; linear in ``n``.

        It is called with DSL integers, too.
        """

    def operands(self, *tensors) -> tuple:
        """What of a call's tensors is passed to the kernel."""

    def prefetch(self, operands: tuple, place: Place, shape: Shape) -> Any:
        """On the device, each math thread, before a tile's first k-block: fetches what it will need.

        Args:
            operands: those of the kernel.
            place: of the warpgroup's first fragment; rows may be behind ``row_end``, columns beyond the last.
            shape: rows and columns of the sum that the warpgroup has of the tile.

        Returns:
            Whatever :meth:`__call__` is to be given. Registers of it are taken from the main loop. Which of
            the tile's columns a call will be for is not always known when compiling, nor which of two
            m-fragments: do not keep one register for each of those.
        """

    def __call__(self, sums: cute.Tensor, place: Place, operands: tuple, fetched) -> cute.Tensor:
        """On the device, each math thread: what is stored in place of ``sums``.

        It is called for some columns of a fragment at a time, in any order, and for rows that are not stored.
        All 128 threads of a warpgroup call it, or none.

        Args:
            sums: registers in FP32, those of 64 rows by a multiple of :attr:`unit` columns, which may be
                overwritten.
            place: which rows and columns they are of.
            operands: those of the kernel.
            fetched: what :meth:`prefetch` returned.

        Returns:
            FP32 registers in the same order, of ``out_columns`` columns.
        """


@dataclass(frozen=True)
class Identity:
    """Sums are stored as they are."""

    tensors: ClassVar[int] = 0
    unit: ClassVar[int] = 8
    part: ClassVar[int] = 8
    width: ClassVar[int] = 0

    def out_columns(self, n: int) -> int:
        """As many."""
        return n

    def operands(self) -> tuple:
        """None."""
        return ()

    def prefetch(self, operands: tuple, place: Place, shape: Shape) -> None:
        """Nothing."""

    def __call__(self, sums: cute.Tensor, place: Place, operands: tuple, fetched) -> cute.Tensor:
        """The sums."""
        return sums


IDENTITY = Identity()


@dataclass(frozen=True)
class TileValue:
    """A value, and what it takes for one tile in one thread: what a store calls."""

    value: Any
    operands: tuple
    fetched: Any
    place: Place  # of the first fragment of the warpgroup

    @property
    def width(self) -> int:
        """As :attr:`Value.width`."""
        return self.value.width

    def out_columns(self, n: int) -> int:
        """As :meth:`Value.out_columns`."""
        return self.value.out_columns(n)

    def among(self, peers: Any) -> "TileValue":
        """The same, where others have the rest of its columns."""
        return replace(self, place=replace(self.place, peers=peers))

    def of_thread(self, thread: Int32) -> "TileValue":
        """The same, where the calling thread's number comes from elsewhere: see :mod:`..sm90.opaque`."""
        return replace(self, place=replace(self.place, thread=thread))

    def __call__(self, sums: cute.Tensor, rows: int, columns: int) -> cute.Tensor:
        """What is stored of sums that lie so many rows and columns from the warpgroup's first ones."""
        count = columns_of(sums)
        unit = self.value.unit if self.place.peers is None else self.value.part
        assert count % unit == 0, f"{count} columns are no whole units of {unit}"
        return self.value(sums, self.place.moved(rows, columns), self.operands, self.fetched)
