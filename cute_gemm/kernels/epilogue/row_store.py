"""Rows of D that end before D does: stored from registers."""

from dataclasses import dataclass
from math import gcd

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from ...plan.limits import MMA_M
from ..sm90.mma import thread_column, thread_row
from .fill import zero_other_rows
from .store import Sums
from .tma_store import TmaOut, TmaStore


@dataclass(frozen=True)
class RowStore(TmaStore):
    """:class:`TmaStore` where a tile's rows may end before those of D do, and the next ones are another's.

    TMA clips at the end of D only. A warpgroup not all of whose rows are to be stored writes the others from
    registers: eight rows by 16 (bf16) or 32 bytes a store instruction, which L2 puts together.
    """

    @cute.jit
    def __call__(self, sums: Sums, operands: TmaOut, sD, warpgroup_idx: Int32, tidx: Int32):
        """As :class:`TmaStore`, but rows of D from ``sums.row_end`` on are left alone."""
        if sums.first[0] + MMA_M * sums.m_fragments <= sums.row_end:
            TmaStore.__call__(self, sums, operands, sD, warpgroup_idx, tidx)
        else:
            mD, value = operands.mD, sums.value
            width = gcd(sums.fragment_n, value.width)
            for piece in cutlass.range_constexpr(len(sums.accs) * sums.fragment_n // width):
                m, column, values = sums.piece(piece, width)
                first = sums.first[0], sums.first[1] + value.out_columns(column), sums.first[2]
                end = sums.row_end, mD.shape[1]
                store_rows(values, mD, first, end, tidx, rows=MMA_M * m)

    def fill(self, operands: TmaOut, scheduler):
        """One warp of each CTA: writes zeros to the rows that no tile of ``scheduler`` stores."""
        zero_other_rows(operands.mD, scheduler)


@cute.jit
def store_rows(values, mD, first, end, tidx: Int32, rows: int = 0):
    """Each thread stores its own elements before row and column ``end``, two columns at a time.

    Args:
        values: registers of 64 rows.
        mD: D (M, N, matrices).
        first: row, column and matrix of D that ``rows`` is counted from.
        end: row and column of D.
        tidx: the calling thread, see :func:`mma.thread_row`.
        rows: from ``first`` to the first of ``values``.
    """
    pair = cute.make_rmem_tensor(2, mD.element_type)
    row, column = thread_row(first[0], tidx), thread_column(first[1], tidx)
    for half in cutlass.range_constexpr(2):
        own_row = row + rows + 8 * half
        if own_row < end[0]:
            gD = cute.domain_offset((own_row, column, first[2]), mD)
            for eight_columns in cutlass.range_constexpr(cute.size(values) // 4):
                if column + 8 * eight_columns < end[1]:
                    for i in range(2):  # constexpr gives other code (docs/performance.md, 73)
                        pair[i] = values[4 * eight_columns + 2 * half + i].to(mD.element_type)
                    store_vector(pair, gD.iterator + 8 * eight_columns)


def store_vector(values: cute.Tensor, pointer: cute.Pointer):
    """Writes all of ``values`` to ``pointer``, aligned to their size, with one instruction."""
    size = cute.size(values)
    target = pointer.align(size * values.element_type.width // 8)
    cute.autovec_copy(values, cute.make_tensor(target, cute.make_layout(size)))
