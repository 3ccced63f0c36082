"""The order in which tiles are walked, chosen so that concurrent tiles share operands in L2."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Constexpr, Int32


@cute.jit
def banded(index: Int32, m_tiles: Int32, n_tiles: Int32, width: Int32) -> tuple[Int32, Int32]:
    """Tile coordinates of a linear index: bands of ``width`` tiles along M, each walked column by column.

    A wave of S CTAs then covers about ``width`` x ``S / width`` tiles, so it reads few rows of both operands.
    The last band is as narrow as what remains. ``index`` must be that of a tile.
    """
    first = index // (n_tiles * width) * width
    rows = cutlass.min(m_tiles - first, width)
    within = index - first * n_tiles
    n_tile = within // rows
    return first + within - n_tile * rows, n_tile


@dataclass(frozen=True)
class Bands:
    """:func:`banded` for extents that the host knows, which prepares the divisions.

    A kernel's first load waits for two of them, which take a GPU long (docs/performance.md, 32).
    """

    width: Constexpr[int]
    m_tiles: Int32
    n_tiles: Int32
    tiles_of_band: cute.FastDivmodDivisorV2
    last_rows: cute.FastDivmodDivisorV2  # of a band that is narrower than the others, if there is one

    @staticmethod
    def make(m_tiles: Int32, n_tiles: Int32, width: int) -> "Bands":
        """Bands of ``width`` tiles over all tiles; there is at least one."""
        last_rows = cutlass.max(m_tiles % width, 1)
        divisors = (cute.FastDivmodDivisorV2(divisor) for divisor in (n_tiles * width, last_rows))
        return Bands(width, m_tiles, n_tiles, *divisors)

    @cute.jit
    def tile(self, index: Int32) -> tuple[Int32, Int32]:
        """Tile coordinates of ``index``, which must be that of a tile."""
        first = index // self.tiles_of_band * self.width
        rows = cutlass.min(self.m_tiles - first, self.width)
        within = index - first * self.n_tiles
        n_tile = cutlass.select_(rows < self.width, within // self.last_rows, within // self.width)
        return first + within - n_tile * rows, n_tile
