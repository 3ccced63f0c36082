"""What the lanes of a warp work out together: it must reach these calls whole.

On the host ``SIZE`` is 1: the same code then does one after the other what the lanes do at once.
"""

from collections.abc import Callable

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32

SIZE = 32


def first_where(count: int, holds: Callable[[Int32], Boolean]) -> Int32:
    """The first of ``count`` places that ``holds`` is true for, else ``count``; the same in all lanes."""
    lane = cute.arch.lane_idx()
    found = Int32(count)
    for start in reversed(range(0, count, SIZE)):
        found = cutlass.select_(holds(start + lane), start + lane, found)
    return cute.arch.warp_redux_sync(found, "min")


@cute.jit
def sum_before(value: Int32, limit: Int32) -> Int32:
    """The sum of ``value`` over the lanes before the calling one, or ``limit`` where that is less.

    No value may be above ``limit``, nor ``limit`` above half of what an Int32 holds.
    """
    lane = cute.arch.lane_idx()
    before = Int32(0)
    if cutlass.const_expr(SIZE > 1):
        before = cute.arch.shuffle_sync_up(value, 1)
        if lane == 0:
            before = Int32(0)
    # Now of the one lane before, then of the two, the four, ... lanes before.
    for i in cutlass.range_constexpr(SIZE.bit_length() - 1):
        further = cute.arch.shuffle_sync_up(before, 1 << i)
        if lane >= 1 << i:
            before = cutlass.min(before + further, limit)
    return before
