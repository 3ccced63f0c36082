"""Markdown tables of measured rows: ours, the limit, peers beside us, and published figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..measure.records import CHAIN, COLD, CONTIGUOUS, DENSE, KEYS, MASKED, OFFSETS, ROW_MAJOR, SUSTAINED, Row
from ..measure.shapes import Shape
from ..measure.statistics import geometric_mean
from ..measure.work import Work
from ..plan.data_sheets import data_sheet
from .published import peer_times
from .results import ours_with, peers_beside, right_times

REGIMES = {
    COLD: "cold L2, one call at a time",
    CHAIN: "chain of layers in a CUDA graph, each with weights of its own",
    SUSTAINED: "sustained, at the power limit",
}
OPS = {
    DENSE: "Dense",
    CONTIGUOUS: "Grouped, contiguous",
    OFFSETS: "Grouped, offsets",
    MASKED: "Grouped, masked",
}
TITLES = OPS | {OFFSETS: "Grouped, offsets (peers: the same rows, padded)"}
"""The same where peers stand beside ours."""

_LEGEND = """\
Times are in microseconds, means over rounds in which all took turns; the spread is the longest round less
the shortest, as a share of the median. The limit is the larger of the times that FLOP and bytes take at the
peaks of the card's data sheet. Behind a peer's time stands how many times as fast ours is. "Reference" is
what the peer took on one H200 in another run. A result marked **wrong** was beyond the limit on errors. Ours
are with M-major scales of A, as DeepGEMM takes them, unless a column says that they are row-major."""


# A bar that ends no cell.
_BAR = "\\|"


def render(rows: Sequence[Row]) -> str:
    """A Markdown document with a table for each operation and regime in ``rows``.

    Raises:
        CommandError: two rows measured the same thing.
    """
    sections = [_section(rows, op, regime) for op in OPS for regime in REGIMES]
    return "\n\n".join(["# Benchmark", _LEGEND, *filter(None, sections)]) + "\n"


def dimension_names(op: str) -> list[str]:
    """What heads the columns of a shape."""
    names = {"groups": "groups", "expected_m": "rows of each"}
    return [names.get(key, key.upper()) for key in KEYS[op]]


def _section(rows: Sequence[Row], op: str, regime: str) -> str:
    ours, row_major = ours_with(rows, op, regime), ours_with(rows, op, regime, ROW_MAJOR)
    if not ours:
        return ""
    measured = peers_beside(rows, op, regime)
    reference = {peer: times for peer, times in peer_times(regime, op).items() if times.keys() & ours.keys()}
    has_limit = any(data_sheet(row["device"]) for row in ours.values())
    header = [
        *dimension_names(op),
        "kernel",
        "us",
        "spread",
        *(["row-major us"] if row_major else []),
        "TFLOP/s",
        *(["limit us", "of it"] if has_limit else []),
        *measured,
        *(f"{peer}, reference" for peer in reference),
    ]
    lines = [
        f"## {TITLES[op]}: {REGIMES[regime]}",
        "",
        _origins(ours.values()),
        "",
        _line(header),
        "|" + "".join("---|" if name == "kernel" else "--:|" for name in header),
    ]
    for shape, row in ours.items():
        cells = [*map(str, shape), f"`{row['config']}`", f"{row['us']:.2f}", _share(row["spread"])]
        if row_major:
            cells.append(f"{row_major[shape]['us']:.2f}" if shape in row_major else "")
        cells.append(f"{row['tflops']:.0f}")
        if has_limit:
            cells += _limit(row)
        cells += [_measured(row, found.get(shape)) for found in measured.values()]
        cells += [_time(row, times.get(shape)) for times in reference.values()]
        lines.append(_line(cells))
    return "\n".join([*lines, *_means(ours, measured, reference)])


def _limit(row: Row) -> list[str]:
    sheet = data_sheet(row["device"])
    if sheet is None:
        return ["", ""]
    limit = sheet.limit_us(Work.of_row(row))
    return [f"{limit:.2f}", f"{limit / row['us']:.0%}"]


def _measured(ours: Row, peer: Row | None) -> str:
    if peer is None:
        return ""
    return f"{'**wrong** ' if 'wrong' in peer else ''}{_time(ours, peer['us'])}"


def _time(ours: Row, us: float | None) -> str:
    return "" if us is None else f"{us:.2f} ({us / ours['us']:.2f}x)"


def _means(
    ours: Mapping[Shape, Row],
    measured: Mapping[str, Mapping[Shape, Row]],
    reference: Mapping[str, Mapping[Shape, float]],
) -> Iterable[str]:
    """How many times as fast as each peer we are, over the shapes at which both were timed."""
    times = {peer: right_times(found) for peer, found in measured.items()}
    times |= {f"{peer}, reference": dict(found) for peer, found in reference.items()}
    ratios = {
        peer: [us / ours[shape]["us"] for shape, us in found.items() if shape in ours]
        for peer, found in times.items()
    }
    means = {peer: found for peer, found in ratios.items() if found}
    if means:
        yield ""
        yield _line(["speed relative to", "shapes", "geometric mean", "least", "greatest"])
        yield "|---|--:|--:|--:|--:|"
    for peer, found in means.items():
        numbers = (geometric_mean(found), min(found), max(found))
        yield _line([peer, str(len(found)), *(f"{number:.3f}" for number in numbers)])


def _origins(rows: Iterable[Row]) -> str:
    """Device, date, timer and versions: one line unless runs were mixed."""
    found: dict[str, None] = {}
    for row in rows:
        versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
        timer = f", timed by {row['timer']}" if "timer" in row else ""
        found[f"{row['device']}, {row['date']}{timer} ({versions})"] = None
    return "; ".join(found)


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', _BAR) for cell in cells)} |"
