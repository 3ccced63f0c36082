"""What times are summarised by."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive values, of which there is at least one."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms))


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return statistics.mean(values)


def median(values: Sequence[float]) -> float:
    """Of at least one value."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> float:
    """Largest less smallest, as a share of the median."""
    return (max(values) - min(values)) / median(values)
