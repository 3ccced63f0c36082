"""What got slower or faster from one run to another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..measure.console import PlainTable
from ..measure.errors import CommandError
from ..measure.records import OURS, Row
from ..measure.shapes import Shape, shape_text
from .results import by_kind


@dataclass(frozen=True)
class Change:
    """One thing that both runs measured: medians in microseconds, and the larger spread of the two."""

    op: str
    shape: Shape
    regime: str
    scale_layout: str | None
    old_us: float
    new_us: float
    spread: float

    @property
    def ratio(self) -> float:
        """Above 1: it got slower."""
        return self.new_us / self.old_us

    @property
    def is_beyond_spread(self) -> bool:
        """Whether it is larger than the spread within either run."""
        return max(self.ratio, 1 / self.ratio) - 1 > self.spread

    def is_regression(self, threshold: float) -> bool:
        """Whether it got slower by more than ``threshold``, a share, and by more than the spread."""
        return self.ratio - 1 > threshold and self.is_beyond_spread


def compare(old: Iterable[Row], new: Iterable[Row]) -> list[Change]:
    """Our rows that are in both runs, worst first.

    Raises:
        CommandError: the runs have no row in common, or one of them measured the same thing twice.
    """
    before, after = _by_key(old), _by_key(new)
    shared = [
        Change(*key, _us(before[key]), _us(after[key]), _spread(before[key], after[key]))
        for key in before.keys() & after.keys()
    ]
    if not shared:
        raise CommandError(
            "the two runs have no row in common: same operation, shape, regime and scale layout"
        )
    return sorted(shared, key=lambda each: (-each.ratio, each.op, each.regime, each.shape))


def table(changes: Sequence[Change], threshold: float) -> PlainTable:
    """For a terminal."""
    found = PlainTable()
    for name in ("operation", "shape", "regime", "scales"):
        found.add_column(name, no_wrap=True)
    for name in ("old us", "new us", "new / old", "spread"):
        found.add_column(name, justify="right", no_wrap=True)
    found.add_column("change")
    for each in changes:
        verdict = ""
        if each.is_beyond_spread:
            verdict = "slower" if each.ratio > 1 else "faster"
        if each.is_regression(threshold):
            verdict = "SLOWER"
        found.add_row(
            each.op,
            shape_text(each.shape),
            each.regime,
            each.scale_layout,
            f"{each.old_us:.2f}",
            f"{each.new_us:.2f}",
            f"{each.ratio:.3f}",
            f"{each.spread:.1%}",
            verdict,
        )
    return found


def summary(old: Sequence[Row], new: Sequence[Row], changes: Sequence[Change], threshold: float) -> str:
    """How many rows there are, and what makes runs hard to compare."""
    slower = sum(each.is_regression(threshold) for each in changes)
    lines = [
        f"{len(changes)} rows compared; SLOWER, by more than {threshold:.1%} and the spread of both: {slower}"
    ]
    for name, rows in (("OLD", old), ("NEW", new)):
        if missing := len(_by_key(rows)) - len(changes):
            lines.append(f"only in {name}: {missing} rows")
    devices = [sorted({row["device"] for row in rows}) for rows in (old, new)]
    if devices[0] != devices[1]:
        lines.append(f"measured on different devices: {', '.join(devices[0])} and {', '.join(devices[1])}")
    return "\n".join(lines)


_Key = tuple[str, Shape, str, str | None]


def _by_key(rows: Iterable[Row]) -> dict[_Key, Row]:
    ours = [row for row in rows if row["peer"] == OURS]
    kinds = dict.fromkeys((row["op"], row["regime"]) for row in ours)
    return {
        (op, shape, regime, layout): row
        for op, regime in kinds
        for (_, layout), found in by_kind(ours, op, regime).items()
        for shape, row in found.items()
    }


def _us(row: Row) -> float:
    median = row.get("median")
    return row["us"] if median is None else median


def _spread(old: Row, new: Row) -> float:
    return max(old.get("spread") or 0.0, new.get("spread") or 0.0)
