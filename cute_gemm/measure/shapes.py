"""Shapes as users write them, and which of them an operation takes."""

from __future__ import annotations

from collections.abc import Sequence

from ..plan.limits import K_MULTIPLE, N_MULTIPLE

Shape = tuple[int, ...]
"""What names a problem within an operation: ``(m, n, k)``, or ``(groups, rows of each, n, k)``."""


def shape_text(shape: Sequence[int]) -> str:
    """``(64, 2112, 7168)`` as ``"64x2112x7168"``."""
    return "x".join(map(str, shape))


def objection(n: int, k: int) -> str:
    """Why no operation takes a B of ``[n, k]``; empty if all do."""
    for name, extent, multiple in (("N", n, N_MULTIPLE), ("K", k, K_MULTIPLE)):
        if extent < 1 or extent % multiple:
            return f"{name} = {extent} is not a positive multiple of {multiple}"
    return ""
