"""Shapes as users write them."""

from __future__ import annotations

from collections.abc import Sequence

Shape = tuple[int, ...]
"""What names a problem within an operation: ``(m, n, k)``, or ``(groups, rows of each, n, k)``; of groups of
columns ``(groups, m, n, columns of each)``; of a quantiser ``(m, k)``; of an expert layer those of
:class:`.choices.LayerShape`."""


def shape_text(shape: Sequence[int]) -> str:
    """``(64, 2112, 7168)`` as ``"64x2112x7168"``."""
    return "x".join(map(str, shape))
