"""Which rows of D are of a group, as bits: what a scheduler says whose other rows may be filled.

Such a scheduler has one method beyond :class:`.base.TileScheduler`:

    rows_taken(row, matrix) -> Int32     bit i: a tile stores row + i of a matrix of D

``row`` is a multiple of ``ROWS`` and one of the matrix; what bits beyond its last row say is of no meaning.
A whole warp calls it, after ``prepare``, and all lanes get the same. It must agree with the tiles whatever is
in memory, for the rows that it leaves out are written meanwhile.
"""

import cutlass
from cutlass import Int32, Int64

ROWS = 32
"""Rows at a time: the bits of an Int32."""


def bits(first: Int32, end: Int32) -> Int32:
    """Those from ``first`` on and before ``end``, which may be any; none where it is not behind ``first``."""
    return below(end) & ~below(first)


def below(end: Int32) -> Int32:
    """The bits before ``end``."""
    # Of 64, as a shift by all bits of a number is not defined.
    return Int32((Int64(1) << Int64(cutlass.max(cutlass.min(end, ROWS), 0))) - 1)
