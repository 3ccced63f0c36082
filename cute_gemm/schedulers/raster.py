"""The order in which tiles are walked, chosen so that concurrent tiles share operands in L2."""

import cutlass
import cutlass.cute as cute
from cutlass import Int32


@cute.jit
def banded(index: Int32, m_tiles: Int32, n_tiles: Int32, width: int | Int32) -> tuple[Int32, Int32]:
    """Tile coordinates of a linear index: bands of ``width`` tiles along M, each walked column by column.

    A wave of S CTAs then covers about ``width`` x ``S / width`` tiles, so it reads few rows of both operands.
    The last band is as narrow as what remains. ``index`` must be that of a tile.
    """
    first = index // (n_tiles * width) * width
    rows = cutlass.min(m_tiles - first, width)
    within = index - first * n_tiles
    n_tile = within // rows
    return first + within - n_tile * rows, n_tile
