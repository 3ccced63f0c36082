"""Promotion: adding a k-block's scaled WGMMA result to the FP32 accumulators on CUDA cores.

Hopper's FP8 WGMMA accumulates with about 14 bits of mantissa, so its result is carried no further than one
128-wide k-block (DeepSeek-V3 technical report, arXiv:2412.19437, section 3.3.2). There the block's scales
are due as well: both cost one FFMA per element.
"""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, const_expr


@cute.jit
def select(condition, a, b):
    return a if condition else b


@dataclass(frozen=True)
class UniformPromotion:
    """One scale of B for the whole tile: BLOCK_N divides 128."""

    block_n: int
    num_b_scales = 1

    def column_split(self, n_tile: Int32) -> Int32:
        """No column starts a second scale block."""
        return Int32(0)

    @cute.jit
    def __call__(self, acc, temp, scales, split: Int32):
        """``acc += temp * scale``; fragments of 64 x BLOCK_N, ``scales`` (1, 2) of this thread's two rows."""
        for i in cutlass.range_constexpr(cute.size(acc)):
            acc[i] = acc[i] + temp[i] * scales[i // 2 % 2][0]


@dataclass(frozen=True)
class StraddlingPromotion:
    """Two scales of B: the tile's columns from ``split`` groups on lie in the next 128-column block."""

    block_n: int
    group_n: int
    num_b_scales = 2

    def column_split(self, n_tile: Int32) -> Int32:
        """Column groups of the tile that lie in its first scale block."""
        return (128 - n_tile * self.block_n % 128) // self.group_n

    @cute.jit
    def __call__(self, acc, temp, scales, split: Int32):
        """``acc += temp * scale``; one select per group of columns that cannot be split."""
        per_group = self.group_n // 2
        for group in cutlass.range_constexpr(self.block_n // self.group_n):
            row_scale = [select(group < split, scales[half][0], scales[half][1]) for half in range(2)]
            for j in cutlass.range_constexpr(per_group):
                i = group * per_group + j
                acc[i] = acc[i] + temp[i] * row_scale[i // 2 % 2]
