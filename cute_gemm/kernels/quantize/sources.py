"""What is quantised: a matrix, or what an activation makes of one."""

import math
from dataclasses import dataclass
from typing import ClassVar

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from ...plan.quantizer import INTERLEAVE
from . import elements


@dataclass(frozen=True)
class Plain:
    """The matrix itself.

    Args:
        dtype: of its elements.
    """

    dtype: type

    parts: ClassVar[int] = 1
    """Elements of the matrix that one value is made of."""

    def column(self, part: int, column: Int32, k: Int32) -> Int32:
        """Where in a row part ``part`` of value ``column`` is, of ``k`` values."""
        return column

    @cute.jit
    def values(self, words: cute.Tensor) -> tuple:
        """The FP32 values in ``words``, (words of a part, parts), and the bits of their largest magnitude."""
        own = words[None, 0]
        return elements.floats_of(own, self.dtype), elements.largest_of_words(own, self.dtype)


@dataclass(frozen=True)
class SwiGLU(Plain):
    """``silu(gate) * up`` of a matrix that has both, twice as many columns: Shazeer, arXiv:2002.05202.

    Args:
        dtype: of its elements.
        is_interleaved: whether eight columns of ``gate`` and of ``up`` alternate; else ``gate`` is the first
            half.
    """

    is_interleaved: bool = False

    parts: ClassVar[int] = 2

    def column(self, part: int, column: Int32, k: Int32) -> Int32:
        if self.is_interleaved:
            return column // INTERLEAVE * (2 * INTERLEAVE) + column % INTERLEAVE + part * INTERLEAVE
        return column + part * k

    @cute.jit
    def values(self, words: cute.Tensor) -> tuple:
        gates, made = (elements.floats_of(words[None, part], self.dtype) for part in range(2))
        for i in cutlass.range_constexpr(cute.size(made)):
            made[i] = silu(gates[i]) * made[i]
        return made, elements.largest(made)


def silu(x: Float32) -> Float32:
    """``x`` times its logistic function. As of torch, that of negative infinity is NaN.

    Its error is at most about 2^-21 of it, times the magnitude of a negative ``x``; or 2^-126.
    """
    return x * cute.arch.rcp_approx(1.0 + cute.math.exp2(x * -math.log2(math.e), approx=True, ftz=True))
