"""Quantising to e4m3 with a scale for each row and 128 columns, before anything is stored."""

from dataclasses import dataclass
from typing import ClassVar

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, const_expr

from ...plan.quantizer import BLOCK
from ..quantize.elements import inverse_of, largest_of_lanes, scale_of
from ..sm90.mma import QUAD, columns_of, row_offset
from ..sm90.tma import as_matrices
from .value import Place, Shape

_PARTS = 4


@dataclass(frozen=True)
class QuantizedValue:
    """Divides each row's 128 columns by their scale, which it stores; the rest is conversion to e4m3.

    The FP32 values are quantised, by :mod:`cute_gemm.quantize.formula` bit for bit. A quad of lanes has all
    128 columns of two rows, so two shuffles give the largest of each; or those of a part, and peers say what
    is the largest of theirs. Columns beyond the last do not count, and of rows that are not stored no scale
    is.

    Args:
        is_power_of_two: whether scales are rounded up to powers of two.
    """

    is_power_of_two: bool

    tensors: ClassVar[int] = 2
    unit: ClassVar[int] = BLOCK
    part: ClassVar[int] = 8
    width: ClassVar[int] = BLOCK

    def out_columns(self, n):
        """As many."""
        return n

    def operands(self, scales: cute.Tensor, columns: Int32) -> tuple:
        """The scales, (rows, columns / 128, matrices), and how many columns there are."""
        return as_matrices(scales), columns

    def prefetch(self, operands: tuple, place: Place, shape: Shape) -> None:
        """Nothing."""

    @cute.jit
    def __call__(self, sums: cute.Tensor, place: Place, operands: tuple, fetched):
        """Values over their scale."""
        width, peers = columns_of(sums), place.peers
        assert width == BLOCK or peers is not None, f"{width} columns; {BLOCK} share a scale"
        scales, columns = operands
        if place.first_column + width > columns:
            clear_from(columns, sums, place)
        rows = [[i for i in range(cute.size(sums)) if row_offset(i) == 8 * half] for half in range(2)]
        most = [largest_of_lanes(largest([sums[i] for i in own]).bitcast(Int32), QUAD) for own in rows]
        if const_expr(peers is not None):
            most = peers.largest(tuple(most))
        is_writer = place.thread % QUAD == 0 and (peers is None or peers.is_first)
        for half in cutlass.range_constexpr(2):
            scale = scale_of(most[half], self.is_power_of_two)
            row = place.row_of(2 * half)
            if is_writer and row < place.row_end and place.first_column < columns:
                scales[row, place.first_column // BLOCK, place.m_group] = scale
            inverse = inverse_of(scale)
            for i in rows[half]:
                sums[i] = sums[i] * inverse
        return sums


def largest(values: list[Float32]) -> Float32:
    """The largest magnitude; NaN where one is. Found in several parts at once, as each step takes a while."""
    most = [Float32(0.0)] * _PARTS
    for i, value in enumerate(values):
        most[i % _PARTS] = cute.arch.fmax(most[i % _PARTS], cute.math.absf(value), nan=True)
    for other in most[1:]:
        most[0] = cute.arch.fmax(most[0], other, nan=True)
    return most[0]


def clear_from(end: Int32, values: cute.Tensor, place: Place):
    """Makes zeros of values of column ``end`` and of those behind."""
    for i in range(cute.size(values)):
        is_one = place.column_of(i) < end
        values[i] = Float32(cutlass.select_(is_one, values[i], Float32(0.0)))
