"""The error of sums over K, in the tensor core and promoted, from the lines that rung 5 has written.

benchmarks/ladder.py draws it, where there are such lines, and says where it is shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from svg import BLUE, GREY, ORANGE, Drawing, Point

Errors = Mapping[int, tuple[float, float]]
"""By K: without and with promotion."""

LEFT, TOP, WIDTH, HEIGHT = 80, 34, 430, 260
SERIES = ("in the tensor core", ORANGE), ("promoted to FP32", BLUE)


def draw(errors: Mapping[str, Errors]) -> str:
    """Errors by card, which must be more than 0: both axes are logarithmic."""
    depths = sorted({k for of_card in errors.values() for k in of_card})
    values = [value for of_card in errors.values() for pair in of_card.values() for value in pair]
    decades = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    first, last = (math.log2(k) for k in (depths[0], max(depths[-1], 2 * depths[0])))
    lowest, highest = decades[0], max(decades[-1], decades[0] + 1)

    def place(k: float, error: float) -> Point:
        x = LEFT + WIDTH * (math.log2(k) - first) / (last - first)
        y = TOP + HEIGHT * (highest - math.log10(error)) / (highest - lowest)
        return round(x, 1), round(y, 1)

    picture = Drawing(680, 360, "The error of sums over K, in the tensor core and promoted")
    for exponent in range(lowest, highest + 1):
        _, y = place(depths[0], 10.0**exponent)
        picture.line([(LEFT, y), (LEFT + WIDTH, y)], GREY, 0.5)
        picture.text((LEFT - 8, y + 4), f"1e{exponent:03d}", anchor="end")
    for k in depths:
        x, y = place(k, 10.0**lowest)
        picture.line([(x, y), (x, y + 5)])
        picture.text((x, y + 18), k, 10)
    picture.line([(LEFT, TOP), (LEFT, TOP + HEIGHT), (LEFT + WIDTH, TOP + HEIGHT)])
    picture.text((LEFT + WIDTH / 2, TOP + HEIGHT + 40), "K", 12)
    picture.text((12, 18), f"error of the worst tile of 128 x 128, {', '.join(errors)}", 12, "start")
    ends = []
    for number, (_, colour) in enumerate(SERIES):
        for of_card in errors.values():
            points = [place(k, of_card[k][number]) for k in sorted(of_card)]
            picture.line(points, colour, 2)
            for x, y in points:
                picture.box((x - 2.5, y - 2.5), (5, 5), colour, 1, colour)
        ends.append(points[-1])
    # Where both lines end at one place, their names stand above it and below.
    apart = max(0, 14 - abs(ends[0][1] - ends[1][1])) / 2
    for (words, colour), (x, y), shift in zip(SERIES, ends, (-apart, apart), strict=True):
        picture.text((x + 12, round(y + 4 + shift, 1)), words, 12, "start", colour)
    return str(picture)
