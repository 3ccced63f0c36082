"""Rows of D that end before D does: stored from registers."""

from dataclasses import dataclass
from itertools import product

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from ...plan.limits import MMA_M
from ..sm90.mma import thread_column, thread_row
from .store import Sums
from .tma_store import TmaStore


@dataclass(frozen=True)
class RowStore(TmaStore):
    """:class:`TmaStore` where a tile's rows may end before those of D do, and the next ones are another's.

    TMA clips at the end of D only. A warpgroup not all of whose rows are to be stored writes the others from
    registers: eight rows by 16 (bf16) or 32 bytes a store instruction, which L2 puts together.
    """

    @cute.jit
    def __call__(self, sums: Sums, operands, sD, warpgroup_idx: Int32, tidx: Int32):
        """As :class:`TmaStore`, but rows of D from ``sums.row_end`` on are left alone."""
        if sums.first[0] + MMA_M * sums.m_fragments <= sums.row_end:
            TmaStore.__call__(self, sums, operands, sD, warpgroup_idx, tidx)
        else:
            mD = operands[-1]
            values, n_fragments = [], sums.n_fragments
            for fragment, acc in enumerate(sums.accs):
                m, n = fragment // n_fragments, fragment % n_fragments
                values.append(sums.value(acc, MMA_M * m, n * sums.fragment_n))
            store_rows(values, n_fragments, mD, sums.first, (sums.row_end, mD.shape[1]), tidx)


@cute.jit
def store_rows(values, n_fragments: int, mD, first, end, tidx: Int32):
    """Each thread stores its own elements before row and column ``end``, two columns at a time.

    Args:
        values: registers of fragments, in the order of :class:`store.Sums`.
        n_fragments: of them side by side.
        mD: D (M, N, matrices).
        first: row, column and matrix of D of the first element of the first fragment.
        end: row and column of D.
        tidx: the calling thread, see :func:`mma.thread_row`.
    """
    pair = cute.make_rmem_tensor(2, mD.element_type)
    row, column = thread_row(first[0], tidx), thread_column(first[1], tidx)
    eights = cute.size(values[0]) // 4
    for m, half in product(range(len(values) // n_fragments), range(2)):
        own_row = row + MMA_M * m + 8 * half
        if own_row < end[0]:
            gD = cute.domain_offset((own_row, column, first[2]), mD)
            for eight_columns in cutlass.range_constexpr(n_fragments * eights):
                if column + 8 * eight_columns < end[1]:
                    of_fragment = values[m * n_fragments + eight_columns // eights]
                    for i in range(2):
                        place = 4 * (eight_columns % eights) + 2 * half + i
                        pair[i] = of_fragment[place].to(mD.element_type)
                    store_vector(pair, gD.iterator + 8 * eight_columns)


def store_vector(values: cute.Tensor, pointer: cute.Pointer):
    """Writes all of ``values`` to ``pointer``, aligned to their size, with one instruction."""
    size = cute.size(values)
    target = pointer.align(size * values.element_type.width // 8)
    cute.autovec_copy(values, cute.make_tensor(target, cute.make_layout(size)))
