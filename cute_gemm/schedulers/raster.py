"""The order in which tiles are walked, chosen so that concurrent tiles share operands in L2."""

import cutlass
import cutlass.cute as cute
from cutlass import Int32


@cute.jit
def banded(index: Int32, m_tiles: Int32, n_tiles: Int32, width: int) -> tuple[Int32, Int32]:
    """Tile coordinates of a linear index: bands of ``width`` tiles along M, each walked column by column.

    A wave of S CTAs then covers about ``width`` x ``S / width`` tiles, so it reads few rows of both operands.
    The last band is as narrow as what remains. ``index`` must be that of a tile.
    """
    return in_band(index // (n_tiles * width), index, m_tiles, n_tiles, width)


@cute.jit
def in_band(band: Int32, index: Int32, m_tiles: Int32, n_tiles: Int32, width: int) -> tuple[Int32, Int32]:
    """As :func:`banded`, where the band is known."""
    first = band * width
    rows = cutlass.min(m_tiles - first, width)
    within = index - first * n_tiles
    n_tile = within // rows
    return first + within - n_tile * rows, n_tile
