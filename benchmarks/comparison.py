"""Our rows beside the peers': ratios, calibration and geometric means. No GPU needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import records
from records import DEEPGEMM, FAST, M_MAJOR, OURS, ROW_MAJOR, Row, Shape


@dataclass(frozen=True)
class Comparison:
    """One shape: our time with row-major scales, DeepGEMM's, and what else was measured beside them."""

    shape: Shape
    row: Row
    deepgemm_us: float
    card: float | None
    """This card's cuBLASLt time over that of the card in the peers' file; None if it was not measured."""
    m_major_us: float | None

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
        return None if self.m_major_us is None else self.us / self.m_major_us


def compare(rows: Iterable[Row], regime: str) -> list[Comparison]:
    """Comparisons for the shapes of `rows` that DeepGEMM was measured at, in the order of the peers' file.

    Raises:
        ValueError: two rows measured the same thing.
    """
    times: dict[tuple[str, str | None], dict[Shape, Row]] = {}
    for row in rows:
        if row["op"] != records.OP or row["regime"] != regime:
            continue
        layout = row["scale_layout"] if row["peer"] == OURS else None
        found = times.setdefault((row["peer"], layout), {})
        if records.shape_of(row) in found:
            raise ValueError(f"two {regime} rows of {row['peer']} ({layout}) at {records.shape_of(row)}")
        found[records.shape_of(row)] = row
    ours, m_major = times.get((OURS, ROW_MAJOR), {}), times.get((OURS, M_MAJOR), {})
    measured, peers = times.get((FAST, None), {}), records.peer_times(regime)
    return [
        Comparison(
            shape=shape,
            row=ours[shape],
            deepgemm_us=deepgemm_us,
            card=measured[shape]["us"] / peers[FAST][shape] if shape in measured else None,
            m_major_us=m_major[shape]["us"] if shape in m_major else None,
        )
        for shape, deepgemm_us in peers[DEEPGEMM].items()
        if shape in ours
    ]


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def mean_of(comparisons: Iterable[Comparison], value: Callable[[Comparison], float | None]) -> float | None:
    """Geometric mean of a property; None unless every comparison has it and there is one."""
    values = [value(each) for each in comparisons]
    known = [each for each in values if each is not None]
    return geometric_mean(known) if known and len(known) == len(values) else None


def by_m(comparisons: Iterable[Comparison]) -> dict[int, list[Comparison]]:
    groups: dict[int, list[Comparison]] = {}
    for each in comparisons:
        groups.setdefault(each.shape[0], []).append(each)
    return groups


def text_table(comparisons: Sequence[Comparison], regime: str) -> str:
    """What a person who waits at the terminal wants to know."""
    lines = [
        f"{regime}: ours against DeepGEMM; above 1 we are faster; scaled: as if on the peers' card",
        _line("shape", "config", "ours us", "DeepGEMM us", "raw", "scaled", "row/M-major"),
    ]
    for each in comparisons:
        numbers = (each.ratio, each.scaled_ratio, each.row_major_cost)
        shape = "x".join(map(str, each.shape))
        times = (f"{each.us:.2f}", f"{each.deepgemm_us:.2f}")
        lines.append(_line(shape, each.row["config"], *times, *map(_number, numbers)))
    groups = {f"M = {m}": group for m, group in by_m(comparisons).items()}
    if {"M = 64", "M = 128"} <= groups.keys():
        groups["M = 64, 128"] = groups["M = 64"] + groups["M = 128"]
    lines.append("geometric means, and the least raw ratio:")
    for label, group in groups.items():
        means = (
            mean_of(group, lambda each: each.ratio),
            mean_of(group, lambda each: each.scaled_ratio),
            mean_of(group, lambda each: each.row_major_cost),
        )
        least = min(each.ratio for each in group)
        lines.append(_line(label, f"least {least:.3f}", "", "", *map(_number, means)))
    return "\n".join(lines)


def _line(label: str, text: str, *numbers: str) -> str:
    return f"{label:>18}  {text:<26}" + "".join(f" {number:>11}" for number in numbers)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
