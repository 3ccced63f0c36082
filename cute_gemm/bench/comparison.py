"""Our rows beside DeepGEMM's, measured or published: ratios, calibration and geometric means."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..measure.records import CONTIGUOUS, DEEPGEMM, DENSE, FAST, OFFSETS, ROW_MAJOR, Row, shape_of
from ..measure.shapes import Shape, shape_text
from ..measure.statistics import geometric_mean
from . import published
from .results import by_kind, ours_with, peers_beside, right_times


@dataclass(frozen=True)
class Comparison:
    """One shape: our time with M-major scales, DeepGEMM's, and what else was measured beside them."""

    shape: Shape
    row: Row
    deepgemm_us: float
    """Of groups without padding DeepGEMM was given a padded copy; what the copy took is not in it."""
    is_beside: bool
    """Whether DeepGEMM took turns with ours. Else its time is a published one, of another run on an H200."""
    card: float | None
    """This card's cuBLASLt time over that of the card in the peers' file; None if it was not measured."""
    row_major_us: float | None

    @property
    def us(self) -> float:
        return self.row["us"]

    @property
    def ratio(self) -> float:
        """Speed relative to DeepGEMM as measured: above 1, ours is faster."""
        return self.deepgemm_us / self.us

    @property
    def scaled_ratio(self) -> float | None:
        """The same, had this card been as fast as the one in the peers' file."""
        return None if self.card is None else self.ratio * self.card

    @property
    def row_major_cost(self) -> float | None:
        """Time with row-major scales over that with M-major ones."""
        return None if self.row_major_us is None else self.row_major_us / self.us


def compare(rows: Iterable[Row], regime: str, op: str = DENSE) -> list[Comparison]:
    """Comparisons for the shapes of `op` that DeepGEMM was measured at, in the order of the peers' file.

    What was published of it stands in where it was not timed beside ours, for a card of the same name.

    Raises:
        CommandError: two rows measured the same thing.
    """
    rows = list(rows)
    ours, row_major = ours_with(rows, op, regime), ours_with(rows, op, regime, ROW_MAJOR)
    beside = right_times(peers_beside(rows, op, regime).get(DEEPGEMM, {}))
    # Also of shapes beside ours, whose times replace these: they come in the order of the file.
    elsewhere = {
        shape: us
        for shape, us in published.peer_times(regime, op).get(DEEPGEMM, {}).items()
        if shape in beside or (shape in ours and ours[shape]["device"] == published.DEVICE)
    }
    # Of a dense shape cuBLASLt has a row of its own, of a grouped one a measurement within ours.
    measured = by_kind(rows, op, regime).get((FAST, None), {})
    there = published.peer_times(regime).get(FAST, {})

    def card(shape: Shape) -> float | None:
        if calibration := ours[shape].get("calibration"):
            return calibration["us"] / there[shape_of(calibration)]
        if shape not in measured or shape not in there or "wrong" in measured[shape]:
            return None
        return measured[shape]["us"] / there[shape]

    return [
        Comparison(
            shape=shape,
            row=ours[shape],
            deepgemm_us=deepgemm_us,
            is_beside=shape in beside,
            card=None if shape in beside else card(shape),
            row_major_us=row_major[shape]["us"] if shape in row_major else None,
        )
        for shape, deepgemm_us in (elsewhere | beside).items()
        if shape in ours
    ]


def speeds_without_padding(rows: Sequence[Row], regime: str) -> list[float]:
    """Of each shape the speed of our offsets operation relative to our contiguous one, padding included."""
    padded, unpadded = (ours_with(rows, op, regime) for op in (CONTIGUOUS, OFFSETS))
    return [padded[shape]["us"] / row["us"] for shape, row in unpadded.items() if shape in padded]


def mean_of(comparisons: Iterable[Comparison], value: Callable[[Comparison], float | None]) -> float | None:
    """Geometric mean of a property; None unless every comparison has it and there is one."""
    values = [value(each) for each in comparisons]
    known = [each for each in values if each is not None]
    return geometric_mean(known) if known and len(known) == len(values) else None


def by_rows(comparisons: Iterable[Comparison]) -> dict[str, list[Comparison]]:
    """Comparisons of as many rows, under "M = 64", or of "groups x rows of each"."""
    classes: dict[str, list[Comparison]] = {}
    for each in comparisons:
        *groups, rows = each.shape[:-2]
        label = f"{groups[0]} x {rows}" if groups else f"M = {rows}"
        classes.setdefault(label, []).append(each)
    return classes


def text_table(comparisons: Sequence[Comparison], title: str) -> str:
    """What a person who waits at the terminal wants to know."""
    lines = [
        f"{title}: ours against DeepGEMM; above 1 we are faster; *: of another run, on an H200; scaled: as if"
        " on that card",
        _line("shape", "config", "ours us", "DeepGEMM us", "raw", "scaled", "row/M-major"),
    ]
    for each in comparisons:
        numbers = (each.ratio, each.scaled_ratio, each.row_major_cost)
        shape = shape_text(each.shape)
        times = (f"{each.us:.2f}", f"{each.deepgemm_us:.2f}{'' if each.is_beside else '*'}")
        lines.append(_line(shape, each.row["config"], *times, *map(_number, numbers)))
    classes = by_rows(comparisons)
    if {"M = 64", "M = 128"} <= classes.keys():
        classes["M = 64, 128"] = classes["M = 64"] + classes["M = 128"]
    classes["all"] = list(comparisons)
    lines.append("geometric means, and the least raw ratio:")
    for label, members in classes.items():
        means = (
            mean_of(members, lambda each: each.ratio),
            mean_of(members, lambda each: each.scaled_ratio),
            mean_of(members, lambda each: each.row_major_cost),
        )
        least = min((each.ratio for each in members), default=math.nan)
        lines.append(_line(label, f"least {least:.3f}", "", "", *map(_number, means)))
    return "\n".join(lines)


def _line(label: str, text: str, *numbers: str) -> str:
    return f"{label:>18}  {text:<43}" + "".join(f" {number:>11}" for number in numbers)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
