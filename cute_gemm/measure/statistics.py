"""What times are summarised by. Means and medians are Python's own."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import geometric_mean, mean, median

__all__ = ["geometric_mean", "mean", "median", "percentile", "spread"]


def spread(values: Sequence[float]) -> float:
    """Largest less smallest, as a share of the median."""
    return (max(values) - min(values)) / median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that a share of the others do not exceed."""
    return sorted(values)[int(share * (len(values) - 1))]
