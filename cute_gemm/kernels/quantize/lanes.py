"""What neighbouring lanes work out for each of several values: once a value, not once a lane.

To have the largest of each value in all lanes takes as many exchanges a value as there are distances. Lanes
that halve what they have with each exchange need little more than one of them a value.
"""

from collections.abc import Callable

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from ..sm90.threads import WARP


def distances(lanes: int) -> tuple[int, ...]:
    """Those at which so many neighbours meet each other, a power of two of them."""
    return tuple(1 << i for i in range(lanes.bit_length() - 1))


def shared_out(values: list, lane: Int32, apart: tuple[int, ...], larger: Callable) -> list:
    """The largest of each value among lanes that are some of the distances ``apart`` from each other.

    Args:
        values: a power of two of them.
        lane: the calling one.
        apart: powers of two, in the order in which lanes exchange what they have.
        larger: of two values the one to keep.

    Returns:
        Of n values and d distances every 2^d-th value, at least one. Which ones these begin with, the lane's
        bits at the distances say, that of the first distance being the lowest.
    """
    for distance in apart:
        sent = values
        if len(values) > 1:
            is_odd = lane & distance != 0
            pairs = [*zip(values[::2], values[1::2], strict=True)]
            values = [cutlass.select_(is_odd, odd, even) for even, odd in pairs]
            sent = [cutlass.select_(is_odd, even, odd) for even, odd in pairs]
        values = [
            larger(own, cute.arch.shuffle_sync_bfly(other, distance))
            for own, other in zip(values, sent, strict=True)
        ]
    return values


def of_lane(value: Float32, place: int, lanes: int) -> Float32:
    """What the lane at ``place`` of so many neighbours has, a power of two of them."""
    if lanes == 1:
        return value
    return cute.arch.shuffle_sync(value, place, mask_and_clamp=(WARP - lanes) << 8 | (WARP - 1))
