"""What a person who waits at the terminal wants to know of expert layers."""

from __future__ import annotations

from collections.abc import Sequence

from ..measure.records import ALL_REGIMES, LAYERS, Row
from ..measure.shapes import shape_text
from ..measure.statistics import geometric_mean
from .results import ours_with, peers_beside, right_times


def summary(rows: Sequence[Row]) -> str:
    """How many times as fast as each peer ours are, a line each; empty if there are none of both.

    Raises:
        CommandError: two rows measured the same thing.
    """
    lines = []
    for op in LAYERS:
        for regime in ALL_REGIMES:
            ours = ours_with(rows, op, regime)
            for peer, found in peers_beside(rows, op, regime).items():
                times = right_times(found)
                speeds = {shape: times[shape] / row["us"] for shape, row in ours.items() if shape in times}
                if speeds:
                    least = min(speeds, key=lambda shape: speeds[shape])
                    lines.append(
                        f"{regime} {op}, speed relative to {peer}: geometric mean"
                        f" {geometric_mean(list(speeds.values())):.3f}, least {speeds[least]:.3f}"
                        f" ({shape_text(least)})"
                    )
    return "\n".join(lines)
