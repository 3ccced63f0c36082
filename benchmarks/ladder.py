"""Writes what rungs of examples/ladder took into their texts, from benchmarks/results/ladder/, or checks it.

Each rung gets its ``## Measured``: a row for each shape, beside the rung before on the same shape and card.
examples/README.md gets the list of rungs, and docs/pictures/ladder.svg the chart of those that compute the
same product. docs/pictures/error_over_k.svg shows the error of rung 5 over K. Rows
are what ``python examples/ladder/NN_name.py --out FILE`` adds to a file there.
Tutorials of examples/yours get theirs in the same way, from benchmarks/results/yours/.

After new results, or for a new rung: ``python benchmarks/ladder.py``. With ``--check``, it writes nothing and
exits with 1 if that was forgotten. Drawing needs matplotlib.
"""

from __future__ import annotations

import argparse
import ast
import html
import importlib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cute_gemm.measure.records import Row, read_rows
from cute_gemm.testing.programs import RECORDS as RECORDS_OF_TUTORIALS
from cute_gemm.testing.rungs import RECORDS, is_timed
from cute_gemm.testing.rungs import before as rungs_before

ROOT = Path(__file__).parents[1]
NOTHING = "Not yet measured."
BEGIN, END = "<!-- ladder:begin -->", "<!-- ladder:end -->"
PICTURE = "docs/pictures/ladder.svg"
ERRORS_PICTURE = "docs/pictures/error_over_k.svg"
ABOUT_ERRORS = "The error of sums over K, in the tensor core and promoted"
PRODUCT = [4096, 4096, 7168]
"""What the chart compares rungs by: M, N and K."""

_MEASURED = re.compile(r'(^## Measured\n\n).*?(?=\n\n## |\n""")', flags=re.MULTILINE | re.DOTALL)
_HEAD = """\
| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|"""

Chart = dict[str, dict[str, float]]
"""TFLOP/s by rung, by card."""

Errors = dict[str, dict[str, dict[int, tuple[float, float]]]]
"""Errors without and with promotion, by K, by card, by rung."""


def files(root: Path = ROOT) -> list[Path]:
    """The rungs, in order."""
    return sorted((root / "examples" / "ladder").glob("*.py"))


def read(root: Path = ROOT) -> list[Row]:
    """What rungs took, on record: of each rung, shape and card the last row, in the rungs' order."""
    last = {}
    for row in filter(is_timed, _lines(root)):
        last[row["device"], row["rung"], tuple(row["shape"])] = row
    return sorted(last.values(), key=lambda row: row["rung"])


def read_errors(root: Path = ROOT) -> Errors:
    """The errors on record: of each rung, card and K the last."""
    found: Errors = {}
    for row in _lines(root):
        if not is_timed(row):
            of_card = found.setdefault(row["rung"], {}).setdefault(row["device"], {})
            of_card[row["shape"][-1]] = row["unpromoted_error"], row["promoted_error"]
    return found


def _lines(root: Path) -> list[Row]:
    """Of all cards."""
    return [row for path in sorted((root / RECORDS).glob("*.jsonl")) for row in read_rows(path)]


def tutorials(root: Path = ROOT) -> list[Path]:
    """Those on kernels of one's own, in order."""
    return sorted((root / "examples" / "yours").glob("*.py"))


def read_tutorials(root: Path = ROOT) -> list[Row]:
    """What is on record: of each tutorial, kernel and card the last row, in the order of the first ones."""
    last = {}
    for path in sorted((root / RECORDS_OF_TUTORIALS).glob("*.jsonl")):
        for row in read_rows(path):
            last[row["device"], row["tutorial"], row["rung"]] = row
    return [*last.values()]


def measured_together(rows: Sequence[Row], tutorial: str) -> str:
    """Markdown for a tutorial's ``## Measured``: a table for each card."""
    own = [row for row in rows if row["tutorial"] == tutorial]
    cards = dict.fromkeys(row["device"] for row in own)
    return "\n\n".join(_table([row for row in own if row["device"] == card]) for card in cards) or NOTHING


def measured(rows: Sequence[Row], path: Path, errors: Errors | None = None) -> str:
    """Markdown for a file's ``## Measured``: a table for each card, and the picture of its ``errors``."""
    rung = path.stem
    cards = dict.fromkeys(row["device"] for row in rows if _stem(row) == rung)
    parts = [_table(_beside(rows, path, card)) for card in cards]
    if errors and rung in errors:
        parts.append(f"![{ABOUT_ERRORS}](../../{ERRORS_PICTURE})")
    return "\n\n".join(parts) or NOTHING


def _beside(rows: Sequence[Row], path: Path, card: str) -> list[Row]:
    """A rung's rows on a card; in front, for each of its shapes, the row of the last rung before it."""
    own = [row for row in rows if _stem(row) == path.stem and row["device"] == card]
    before, is_before = {}, rungs_before(path)
    for row in rows:
        if row["device"] == card and is_before(_stem(row)) and "," not in row["rung"]:
            before[tuple(row["shape"])] = row
    shapes = dict.fromkeys(tuple(row["shape"]) for row in own)
    return [before[shape] for shape in shapes if shape in before] + own


def _stem(row: Row) -> str:
    """The file that a row is of: behind a comma is a variant."""
    return row["rung"].partition(",")[0]


def _table(rows: Sequence[Row]) -> str:
    return "\n".join([f"{_origin(rows)}:", "", _HEAD, *map(_line, rows)])


def _line(row: Row) -> str:
    share = f"{row['of_limit']:.1%}" if row["of_limit"] else ""
    shape = "x".join(map(str, row["shape"]))
    error = f"{row['error']:.1e}" if row["error"] else "0"
    cells = row["rung"], shape, f"{row['us']:.1f}", _speed(row), share, error, str(row["registers"])
    return f"| {' | '.join(cells)} |"


def _speed(row: Row) -> str:
    return f"{row['tflops']:.0f} TFLOP/s" if row["tflops"] >= 1 else f"{row['gbps']:.0f} GB/s"


def _origin(rows: Iterable[Row]) -> str:
    """Cards, dates and versions."""
    found = {
        f"{row['device']}, {row['date']}, nvidia-cutlass-dsl {row['versions'].get('nvidia-cutlass-dsl')}"
        for row in rows
    }
    return "; ".join(sorted(found))


def with_measured(source: str, text: str) -> str:
    """A rung's source with ``text`` as its ``## Measured``.

    Raises:
        ValueError: it has no such section, or several.
    """
    changed, count = _MEASURED.subn(lambda found: found[1] + text, source)
    if count != 1:
        raise ValueError(f"want one section '## Measured' in the docstring, found {count}")
    return changed


def index(rows: Sequence[Row], root: Path = ROOT, errors: Errors | None = None) -> str:
    """Markdown that lists the rungs, with the time of each one's first shape, and shows chart and errors."""
    cards = dict.fromkeys(row["device"] for row in rows)
    lines = [
        f"| rung | what it is about |{''.join(f' {card} |' for card in cards)}",
        f"|---|---|{'--:|' * len(cards)}",
    ]
    for path in files(root):
        title = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0].removesuffix(".")
        times = "".join(f" {_first(rows, path.stem, card)} |" for card in cards)
        lines.append(f"| [{path.stem}](ladder/{path.name}) | {title} |{times}")
    if chart(rows):
        m, n, k = PRODUCT
        lines += ["", f"![TFLOP/s of each rung that computes {m} x {n} x {k}](../{PICTURE})"]
    if errors:
        lines += ["", f"![{ABOUT_ERRORS}](../{ERRORS_PICTURE})"]
    return "\n".join(lines)


def _first(rows: Sequence[Row], rung: str, card: str) -> str:
    """The speed of a rung's first row on a card."""
    return next((_speed(row) for row in rows if row["rung"] == rung and row["device"] == card), "")


def listed(text: str, rungs: str) -> str:
    """A page with ``rungs`` between its markers.

    Raises:
        ValueError: the markers are not there, once and in order.
    """
    pattern = re.compile(f"{BEGIN}.*?{END}", flags=re.DOTALL)
    if len(pattern.findall(text)) != 1 or text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"want one {BEGIN} and, after it, one {END}")
    return pattern.sub(lambda _: f"{BEGIN}\n{rungs}\n{END}", text)


def chart(rows: Sequence[Row]) -> Chart:
    """What the chart shows; empty where no rung of the product was measured."""
    shown: Chart = {}
    for row in rows:
        if row["shape"] == PRODUCT and "," not in row["rung"]:
            shown.setdefault(row["device"], {})[row["rung"]] = row["tflops"]
    return shown


def shows(path: Path) -> Any:
    """What the chart in a file was drawn of; None if it does not say."""
    if not path.exists():
        return None
    found = re.search(r"<dc:description>(.*?)</dc:description>", path.read_text(), flags=re.DOTALL)
    return json.loads(html.unescape(found[1])) if found else None


def draw(path: Path, shown: Chart) -> None:
    """Draws the chart, in tones that are legible on light and on dark, without a background."""
    import matplotlib
    from matplotlib.figure import Figure

    grey, colours = "#808080", ("#2f81c7", "#d1782c", "#3a9d6e", "#b5659a")
    tones = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style = dict.fromkeys(tones, grey) | {"svg.fonttype": "none", "svg.hashsalt": "ladder", "font.size": 9}
    with matplotlib.rc_context(style):
        rungs = sorted({rung for speeds in shown.values() for rung in speeds})
        figure = Figure(figsize=(8, 0.9 + 0.32 * len(rungs) * len(shown)), layout="constrained")
        axes = figure.subplots()
        height = 0.8 / len(shown)
        for number, ((card, speeds), colour) in enumerate(zip(shown.items(), colours, strict=False)):
            places = [rungs.index(rung) + number * height for rung in speeds]
            bars = axes.barh(places, [*speeds.values()], height * 0.9, color=colour, label=card)
            axes.bar_label(bars, fmt="%.0f", padding=3)
        axes.set_yticks([place + 0.4 - height / 2 for place in range(len(rungs))], rungs)
        axes.invert_yaxis()
        axes.set_xlabel("TFLOP/s, cold L2, M x N x K = " + " x ".join(map(str, PRODUCT)))
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(frameon=False, loc="outside upper left", ncols=len(shown))
        metadata = {"Description": json.dumps(shown), "Date": None, "Creator": None}
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, transparent=True, metadata=metadata)


def drawn(errors: Errors) -> str:
    """The picture of the errors, of the only rung that has any; empty if none has."""
    if not errors:
        return ""
    (of_rung,) = errors.values()
    # Before all others: a DSL of 4.8.0 appends a folder of its own to the path.
    sys.path.insert(0, str(ROOT / "docs" / "pictures"))
    try:
        return str(importlib.import_module("error_over_k").draw(of_rung))
    finally:
        sys.path.pop(0)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    rows, errors = read(root), read_errors(root)
    texts = {path: with_measured(path.read_text(), measured(rows, path, errors)) for path in files(root)}
    together = read_tutorials(root)
    for path in tutorials(root):
        texts[path] = with_measured(path.read_text(), measured_together(together, path.stem))
    readme = root / "examples" / "README.md"
    texts[readme] = listed(readme.read_text(), index(rows, root, errors))
    if errors:
        texts[root / ERRORS_PICTURE] = drawn(errors)
    old = [path for path, text in texts.items() if not path.exists() or path.read_text() != text]
    picture, shown = root / PICTURE, chart(rows)
    is_drawn = shows(picture) == shown if shown else True
    if options.check:
        for path in [*old, *([] if is_drawn else [picture])]:
            print(f"{path.relative_to(root)} is out of date: run benchmarks/ladder.py", file=sys.stderr)
        return 0 if is_drawn and not old else 1
    for path in old:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[path])
    if not is_drawn:
        draw(picture, shown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
