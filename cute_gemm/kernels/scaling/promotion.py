"""Promotion: adding a k-block's scaled WGMMA result to the FP32 accumulators on CUDA cores.

Hopper's FP8 WGMMA accumulates with about 14 bits of mantissa, so its result is carried no further than one
128-wide k-block (DeepSeek-V3 technical report, arXiv:2412.19437, section 3.3.2). There the block's scales
are due as well: both cost one FFMA per element.
"""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32


@dataclass(frozen=True)
class UniformPromotion:
    """One scale of B for a whole fragment: its columns lie in one scale block."""

    fragment_n: int
    num_b = 1

    def split(self, column: Int32) -> Int32:
        """No column of the fragment that begins at ``column`` lies in a second scale block."""
        return Int32(0)

    @cute.jit
    def __call__(self, acc, partial, scales, split: Int32):
        """``acc += partial * scale`` for a fragment; ``scales[row half][0]`` for each row half."""
        row_scale = [first for (first,) in scales]
        for eight_columns in cutlass.range_constexpr(self.fragment_n // 8):
            add_scaled(acc, partial, row_scale, eight_columns)


@dataclass(frozen=True)
class StraddlingPromotion:
    """Two scales of B: columns from the fragment's group ``split`` on lie in the next scale block.

    Args:
        fragment_n: columns of a fragment.
        group_n: columns that are sure to share a scale, wherever a fragment starts.
        scale_n: columns of a scale block.
    """

    fragment_n: int
    group_n: int
    scale_n: int
    num_b = 2

    def split(self, column: Int32) -> Int32:
        """Groups of ``group_n`` columns in the first scale block of a fragment that begins at ``column``."""
        return (self.scale_n - column % self.scale_n) // self.group_n

    @cute.jit
    def __call__(self, acc, partial, scales, split: Int32):
        """As in :class:`UniformPromotion`, with one select per row half and group of columns."""
        per_group = self.group_n // 8
        for group in cutlass.range_constexpr(self.fragment_n // self.group_n):
            row_scale = [self.scale_of(group, first, second, split) for first, second in scales]
            for eight_columns in cutlass.range_constexpr(group * per_group, (group + 1) * per_group):
                add_scaled(acc, partial, row_scale, eight_columns)

    def scale_of(self, group: int, first, second, split: Int32):
        """The scale of a group of columns. Of 192 columns, all but those in the middle need no select."""
        if group < 1:
            return first
        if group >= self.scale_n // self.group_n:
            return second
        return select(group < split, first, second)


def add_scaled(acc, partial, row_scale, eight_columns: int):
    """Promotes this thread's share of 16 rows by 8 columns: two columns of each of its two rows."""
    for half, scale in enumerate(row_scale):
        for column in range(2):
            i = 4 * eight_columns + 2 * half + column
            acc[i] = acc[i] + partial[i] * scale


@cute.jit
def select(condition, a, b):
    return a if condition else b
