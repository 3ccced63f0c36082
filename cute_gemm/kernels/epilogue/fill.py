"""Zeros in rows of D that no tile stores: written beside the product, by a warp that has no other work."""

import cutlass
import cutlass.cute as cute
from cutlass import Int32, const_expr

from ...schedulers import taken
from ..quantize.memory import matrix_of, store
from ..sm90.threads import WARP

_BYTES = 16
"""That a lane stores at once; rows of D begin at multiples of it and are as long as some of them."""


@cute.jit
def zero_other_rows(mD: cute.Tensor, scheduler):
    """The work of one whole warp of each CTA: together they write all rows that are not taken.

    They share out pieces of D, 32 rows high and as wide as it is. Where there are fewer pieces than CTAs,
    several take a piece, and its columns in turns.

    No loop is unrolled: with more code here ptxas makes something else of the main loops.

    Args:
        mD: D (M, N, matrices).
        scheduler: one that says which rows are taken (:mod:`cute_gemm.schedulers.taken`).
    """
    m, _, matrices = mD.shape
    (x, y, z), (width, height, depth) = cute.arch.block_idx(), cute.arch.grid_dim()
    ctas, cta = width * height * depth, (z * height + y) * width + x
    high = cute.ceil_div(m, taken.ROWS)
    sharers = cutlass.max(ctas // (high * matrices), 1)
    first = cta // sharers
    for piece in cutlass.range(first, high * matrices, ctas, unroll=1):
        matrix = Int32(0)
        if const_expr(not isinstance(matrices, int)):
            matrix = piece // high
        row = (piece - matrix * high) * taken.ROWS
        others = taken.below(m - row) & ~scheduler.rows_taken(row, matrix)
        for i in cutlass.range(taken.ROWS, unroll=1):
            if (others >> i) & 1 == 1:
                zero(matrix_of(mD, matrix), row + i, cta - first * sharers, sharers)


@cute.jit
def zero(matrix: cute.Tensor, row: Int32, sharer: Int32, sharers: Int32):
    """Writes zeros to what is one sharer's of a row: as many columns as a warp stores at once, in turns."""
    at_once = _BYTES * 8 // matrix.element_type.width
    zeros = cute.make_rmem_tensor(at_once, matrix.element_type)
    zeros.fill(0)
    first = (sharer * WARP + cute.arch.lane_idx()) * at_once
    for column in cutlass.range(first, matrix.shape[1], sharers * WARP * at_once, unroll=1):
        store(zeros, 0, at_once, matrix, (row, column))
