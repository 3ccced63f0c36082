"""The JSON lines of a survey: headers, a line for each problem, and what they say when they are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from drawn_shapes import Draw

from cute_gemm.measure.records import CHAIN, COLD, Row, read_rows
from cute_gemm.plan.card import H100, Card
from cute_gemm.plan.problem import GemmProblem

CHAIN_PDL = "chain_pdl"
REGIMES = COLD, CHAIN, CHAIN_PDL
"""Single calls with a cold L2, layers back to back in a CUDA graph, and the same by dependent launch."""

CHOSEN, CHOSEN_PDL, BEST = "chosen", "chosen, dependent launch", "best"
"""What is timed again: what a call launches, and the fastest; in a chain of both ways to launch."""

Again = Mapping[str, Mapping[str, float]]
"""By regime, of which ``chain`` stands for both ways to launch, and by what was timed: microseconds."""


@dataclass(frozen=True)
class Measured:
    """What candidates for a problem took.

    Args:
        draw: the problem.
        times: by the names of candidates, microseconds in each of :data:`REGIMES`.
        chosen: the name of the one that a call launches.
        again: what some took in samples of their own; empty if that was not asked for.
    """

    draw: Draw
    times: Mapping[str, Sequence[float]]
    chosen: str
    again: Again = field(default_factory=dict)


class SurveyFile:
    """Writes a survey, a line at a time, so that what was measured is kept whatever comes."""

    def __init__(self, stream: TextIO, header: Row) -> None:
        self._stream = stream
        self._indices: dict[str, int] = {}
        self._write({**header, "configs": []})

    def add(self, measured: Measured) -> None:
        """Keep a problem, names of candidates that are new in a line before it."""
        new = [name for name in measured.times if name not in self._indices]
        if new:
            self._indices |= {name: len(self._indices) + i for i, name in enumerate(new)}
            self._write({"configs": new})
        times = [
            [self._indices[name], *(round(us, 2) for us in each)] for name, each in measured.times.items()
        ]
        row = measured.draw.key() | {"chosen": self._indices[measured.chosen], "t": times}
        if measured.again:
            row["again"] = {
                regime: {name: round(us, 2) for name, us in each.items()}
                for regime, each in measured.again.items()
            }
        self._write(row)

    def _write(self, row: Row) -> None:
        self._stream.write(json.dumps(row, separators=(",", ":")) + "\n")
        self._stream.flush()


def read_measured(path: Path) -> Iterator[tuple[GemmProblem, Measured]]:
    """The problems of a survey, and what was measured of each.

    Raises:
        CommandError: it cannot be read, or a line is not JSON.
    """
    names: list[str] = []
    card = H100
    for row in read_rows(path):
        names += row.get("configs", [])
        card = Card(**row["card"]) if "card" in row else card
        if "t" not in row:
            continue
        draw = Draw.of_row(row)
        times = {names[index]: us for index, *us in row["t"]}
        yield draw.problem(card), Measured(draw, times, names[row["chosen"]], row.get("again", {}))
