"""What is to be measured: the shapes of each suite, and which operations share operands."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..measure.errors import CommandError
from ..measure.records import DENSE, GROUPED
from ..measure.shapes import Shape, shape_text
from ..plan.limits import MAX_EXTENT
from ..plan.problem import why_impossible
from .published import peer_shapes
from .results import PEER_OPS

SUITES = "dense", "grouped"


@dataclass(frozen=True)
class Trial:
    """One shape in one regime, and the operations that are timed together at it."""

    suite: str
    regime: str
    ops: tuple[str, ...]
    shape: Shape

    @property
    def title(self) -> str:
        return f"{self.regime} {shape_text(self.shape)}"


def plan(
    suites: Sequence[str],
    regimes: Sequence[str],
    ops: Sequence[str] = GROUPED,
    shapes: Sequence[Shape] | None = None,
) -> list[Trial]:
    """The trials of a run, those of one suite and regime together.

    Args:
        suites: of `SUITES`.
        regimes: ``"cold"`` and ``"sustained"``.
        ops: which grouped operations.
        shapes: ``(m, n, k)`` and ``(groups, expected_m, n, k)``; None for those of the peers' figures.

    Raises:
        CommandError: a shape that no operation takes, or no trials at all.
    """
    for shape in shapes or ():
        _check(shape)
    trials = [
        trial
        for suite in suites
        for regime in regimes
        for trial in (_dense(regime, shapes) if suite == "dense" else _grouped(regime, ops, shapes))
    ]
    if not trials:
        given = f"the shapes {', '.join(map(shape_text, shapes))}" if shapes else "the peers' shapes"
        raise CommandError(
            f"nothing to measure: none of {given} is of the suite {' or '.join(suites)}"
            f" ({', '.join(regimes)}); dense shapes are MxNxK, grouped ones GxMxNxK"
        )
    return trials


def _check(shape: Shape) -> None:
    *groups, m, n, k = shape
    why = "numbers start at 1" if min(shape) < 1 else why_impossible(n, k, *groups)
    if not why and math.prod((*groups, m)) > MAX_EXTENT:
        why = f"more than {MAX_EXTENT} rows"
    if why:
        raise CommandError(f"{shape_text(shape)}: {why}")


def _dense(regime: str, shapes: Sequence[Shape] | None) -> Iterator[Trial]:
    chosen = peer_shapes(regime) if shapes is None else [shape for shape in shapes if len(shape) == 3]
    for shape in chosen:
        yield Trial("dense", regime, (DENSE,), shape)


def _grouped(regime: str, ops: Sequence[str], shapes: Sequence[Shape] | None) -> Iterator[Trial]:
    shared: dict[tuple[str, Shape], tuple[str, ...]] = {}
    for op in ops:
        chosen = peer_shapes(regime, op) if shapes is None else [shape for shape in shapes if len(shape) == 4]
        for shape in chosen:
            key = PEER_OPS[op], shape
            shared[key] = (*shared.get(key, ()), op)
    for (_, shape), timed in shared.items():
        yield Trial("grouped", regime, timed, shape)
