"""Writes the README's figures from the JSON lines in benchmarks/results/, or checks them.

Of each operation and regime, those of the card that was measured last.

After new results: ``python benchmarks/figures.py``. With ``--check``, it exits with 1 if that was forgotten.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from cute_gemm.bench.comparison import (
    Comparison,
    by_rows,
    compare,
    geometric_mean,
    mean_of,
    speeds_without_padding,
)
from cute_gemm.bench.records import COLD, CONTIGUOUS, DENSE, MASKED, OFFSETS, SUSTAINED, Row, read_rows
from cute_gemm.bench.tables import dimension_names

BENCHMARKS = Path(__file__).parent
RESULTS = BENCHMARKS / "results"
README = BENCHMARKS.parent / "README.md"
BEGIN, END = "<!-- figures:begin -->", "<!-- figures:end -->"

_REGIMES = {
    COLD: "Cold L2, one call at a time",
    SUSTAINED: "Sustained, two seconds of back-to-back calls at the power limit",
}
_OPS = {
    DENSE: "",
    CONTIGUOUS: "Grouped, contiguous. ",
    OFFSETS: "Grouped, offsets: the same rows without padding. ",
    MASKED: "Grouped, masked. ",
}


def render(rows: Sequence[Row]) -> str:
    """Markdown for the results in `rows`, of any operations and regimes."""
    parts = [_section(rows, op, regime) for op in _OPS for regime in _REGIMES]
    parts = [part for part in parts if part]
    return "\n\n".join(parts) if parts else "No figures yet."


def replaced(text: str, figures: str) -> str:
    """`text` with `figures` between its markers.

    Raises:
        ValueError: the markers are not there, once and in order.
    """
    before, *rest = text.split(BEGIN)
    if len(rest) != 1 or rest[0].count(END) != 1:
        raise ValueError(f"want one {BEGIN} and, after it, one {END}")
    return f"{before}{BEGIN}\n{figures}\n{END}{rest[0].split(END)[1]}"


def read_results(directory: Path = RESULTS) -> list[Row]:
    return [row for path in sorted(directory.rglob("*.jsonl")) for row in read_rows(path)]


def _of_the_last_card(rows: Sequence[Row], op: str, regime: str) -> list[Row]:
    """The rows of the card on which ``op`` was measured last."""
    dates = {
        row["device"]: row["date"]
        for row in sorted(rows, key=lambda row: row["date"])
        if (row["op"], row["regime"]) == (op, regime)
    }
    last = max(dates, key=lambda device: dates[device], default=None)
    return [row for row in rows if row["device"] == last]


def _section(rows: Sequence[Row], op: str, regime: str) -> str:
    rows = _of_the_last_card(rows, op, regime)
    comparisons = compare(rows, regime, op)
    if not comparisons:
        return ""
    columns = [*dimension_names(op), "kernel", "us", "TFLOP/s", "DeepGEMM us", "speed / DeepGEMM"]
    lines = [
        f"**{_OPS[op]}{_REGIMES[regime]}** ({_origin(comparisons)}):",
        "",
        f"| {' | '.join(columns)} |",
        "|" + "".join("---|" if column == "kernel" else "--:|" for column in columns),
    ]
    for each in comparisons:
        figures = f"{each.us:.1f} | {each.row['tflops']:.0f} | {each.deepgemm_us:.1f} | {each.ratio:.2f}"
        shape = " | ".join(map(str, each.shape))
        lines.append(f"| {shape} | `{each.row['config']}` | {figures} |")
    notes = [*_notes(comparisons), *(_notes_on_padding(rows, regime) if op == OFFSETS else ())]
    return "\n".join([*lines, "", *_means(comparisons), "", " ".join(notes)])


def _means(comparisons: Sequence[Comparison]) -> Iterable[str]:
    classes = by_rows(comparisons)
    if len(comparisons[0].shape) > 3:
        classes["all"] = list(comparisons)
    groups = list(classes.values())
    yield "| geometric mean | " + " | ".join(classes) + " |"
    yield "|---|" + "--:|" * len(groups)
    yield (
        "| speed / DeepGEMM | "
        + " | ".join(f"{geometric_mean([each.ratio for each in group]):.3f}" for group in groups)
        + " |"
    )
    scaled = [mean_of(group, lambda each: each.scaled_ratio) for group in groups]
    if any(scaled):
        cells = " | ".join("" if mean is None else f"{mean:.3f}" for mean in scaled)
        yield f"| the same, cards calibrated | {cells} |"


def _notes(comparisons: Sequence[Comparison]) -> Iterable[str]:
    beside = sum(each.is_beside for each in comparisons)
    if beside:
        yield f"DeepGEMM took turns with our kernels at {beside} of {len(comparisons)} shapes."
    card = mean_of(comparisons, lambda each: each.card)
    if card is not None:
        yield (
            "DeepGEMM was measured in another run, maybe on another card. cuBLASLt beside our kernel took"
            f" {card:.3f} times as long as beside DeepGEMM (geometric mean);"
            " the calibrated means put that right, shape by shape."
        )
    costs = [each.row_major_cost for each in comparisons if each.row_major_cost is not None]
    row_major = (
        f"; row-major ones take {geometric_mean(costs):.3f} times as long"
        f" (geometric mean of {len(costs)} shapes; {max(costs):.3f} at worst)"
        if costs
        else ""
    )
    yield f"Scales of A are M-major, as DeepGEMM takes them{row_major}."
    errors = [each.row["error_worst_tile"] for each in comparisons]
    yield f"The worst tile's error over all shapes is {max(errors):.2e}."


def _notes_on_padding(rows: Sequence[Row], regime: str) -> Iterable[str]:
    yield "DeepGEMM's time is that of the padded layout, without the copy that makes it."
    speeds = speeds_without_padding(rows, regime)
    if speeds:
        yield (
            "Relative to our own contiguous operation, which computes the padding, the speed is"
            f" {geometric_mean(speeds):.3f} (geometric mean of {len(speeds)} shapes;"
            f" {min(speeds):.3f} at worst)."
        )


def _origin(comparisons: Iterable[Comparison]) -> str:
    """Device, date and versions: those of every row, which are one and the same unless runs were mixed."""
    origins = set()
    for each in comparisons:
        versions = each.row["versions"]
        names = [name for name in ("nvidia-cutlass-dsl", "torch") if name in versions]
        listed = [f"{name} {versions[name]}" for name in names]
        origins.add(", ".join([each.row["device"], each.row["date"], *listed]))
    return "; ".join(sorted(origins))


def main(arguments: Sequence[str] | None = None, readme: Path = README) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    text = readme.read_text()
    wanted = replaced(text, render(read_results()))
    if options.check and text != wanted:
        print(f"the figures in {readme.name} are out of date: run benchmarks/figures.py", file=sys.stderr)
        return 1
    if not options.check:
        readme.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
