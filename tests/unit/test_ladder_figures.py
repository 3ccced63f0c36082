"""Figures in the prose of rungs, tutorials and their index follow from the lines on record.

A figure is a number with a unit, a fraction or an exponent. It is, to the digits given, what was measured of
its own file or of a rung that the text names, or what follows from two such rows: see `follows`. What is
worked out in another way is in `WORKED_OUT`, with how. Tables are generated, and tested elsewhere.
"""

import ast
import importlib
import itertools
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
ladder = importlib.import_module("ladder")

EXAMPLES = ROOT / "examples"
INDEX = EXAMPLES / "README.md"
TEXTS = [*ladder.files(), *ladder.tutorials(), INDEX]
ROWS, ROWS_OF_TUTORIALS = ladder.read(), ladder.read_tutorials()

FIGURE = re.compile(
    r"(?<![\w.])(?P<number>\d+(?:\.\d+)?(?:e-\d+)?)"
    r"(?: (?P<unit>us|TFLOP/s|TB/s|GB/s|[GM]B|%(?! \d)))?(?![\w/])"
)
TIMES, TFLOPS, GBPS, SHARES = "us", "TFLOP/s", "GB/s", "%"


class Figure(NamedTuple):
    number: str
    unit: str
    """Empty where the text gives none."""

    def __str__(self) -> str:
        return f"{self.number} {self.unit}".strip()

    def is_of(self, value: float) -> bool:
        """Whether ``value`` is this, to the digits given, whichever way a tie was rounded."""
        mantissa, _, exponent = self.number.partition("e")
        digit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
        return abs(value - float(self.number)) <= 0.5001 * digit


def prose(text: str) -> str:
    """What people wrote of a page: without tables, code, addresses and what stands between markers."""
    text = re.sub(f"{ladder.BEGIN}.*?{ladder.END}|```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"^## Measured\n.*?(?=^## )", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^(\||    ).*$", "", text, flags=re.MULTILINE)
    return " ".join(re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text).split())


def figures(text: str) -> list[Figure]:
    found = (Figure(each["number"], each["unit"] or "") for each in FIGURE.finditer(text))
    return [each for each in found if each.unit or not each.number.isdecimal()]


def read(path: Path) -> str:
    text = path.read_text()
    return prose((ast.get_docstring(ast.parse(text)) or "") if path.suffix == ".py" else text)


def sources(path: Path, text: str) -> list[dict[str, Any]]:
    """The rows that a text may speak of: its own, those beside them, and those of rungs that it names."""
    if path == INDEX:
        return ROWS
    if path.parent.name == "yours":
        return [row for row in ROWS_OF_TUTORIALS if row["tutorial"] == path.stem]
    own = {row["device"]: ladder._beside(ROWS, path, row["device"]) for row in ROWS}
    named = re.findall(r"[Rr]ungs? (\d+)", text)
    return [
        *itertools.chain(*own.values()),
        *(row for row in ROWS if row["rung"][:2].lstrip("0") in named),
    ]


def follows(rows: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """What rows say, with its unit: each by itself, and any two of the same card and shape.

    Of two, how often the one takes the other's time, and what share of it is gained or lost.
    """
    for row in rows:
        yield TIMES, row["us"]
        yield TFLOPS, row["tflops"]
        yield GBPS, row["gbps"]
        yield "", row["error"]
        if row["of_limit"]:
            yield SHARES, 100 * row["of_limit"]
            yield SHARES, 100 * (1 - row["of_limit"])
            # The limit itself.
            yield TIMES, row["us"] * row["of_limit"]
    for one, other in itertools.permutations(rows, 2):
        if (one["device"], one["shape"]) == (other["device"], other["shape"]):
            ratio = one["us"] / other["us"]
            yield "", ratio
            yield SHARES, 100 * abs(ratio - 1)


def us(rung: str) -> float:
    """Of the rung's first shape."""
    return next(row["us"] for row in ROWS if row["rung"].startswith(rung))


def of_tutorial(number: str, rung: str) -> float:
    return next(
        row["us"]
        for row in ROWS_OF_TUTORIALS
        if row["tutorial"].startswith(number) and row["rung"].startswith(rung)
    )


def in_results(number: float) -> float:
    """It, if docs/results.md has a cell of it: that page is generated."""
    return number if f"| {number:g} |" in (ROOT / "docs" / "results.md").read_text() else math.nan


NARROW = 64 * 32 * 56 * (64 + 128) * 128
"""Bytes that all tiles of 64 x 128 load of the product that rungs share: 24 KB a k-block."""
WIDE = 32 * 32 * 56 * (128 + 128) * 128
"""The same in tiles of 128 x 128."""

PLAIN = [row["us"] for row in ROWS_OF_TUTORIALS if row["rung"].startswith("the library's")]
OF_PRODUCT = [us for us in PLAIN if 170 < us < 182]
"""What the library's kernel took of the product, in each of the tutorials."""

WORKED_OUT: dict[str, dict[str, float]] = {
    "01_hello": {"12 MB": 12 * 1000003 / 1e6},
    "03_swizzle": {"12.5 %": 100 / 8},
    "04_wgmma": {"0.94": 15 / 16},
    "05_k_loop": {"2.8 GB": NARROW / 1e9, "10 TB/s": NARROW / us("05") / 1e6},
    "07_ring": {"2.8 GB": NARROW / 1e9, "10.5 TB/s": NARROW / us("07") / 1e6},
    "08_warp_specialization": {
        "177.0": min(OF_PRODUCT),
        "180.6 us": max(OF_PRODUCT),
        "2.8 GB": NARROW / 1e9,
        "10.2": NARROW / max(map(us, ("05", "07", "08"))) / 1e6,
        "10.5 TB/s": NARROW / min(map(us, ("05", "07", "08"))) / 1e6,
    },
    "09_two_warpgroups": {"1.9 GB": WIDE / 1e9, "8 TB/s": WIDE / us("09") / 1e6},
    "11_persistence": {"7.76": 1024 / 132, "3 %": 100 * (1 - 1024 / 132 / 8)},
    "14_split_k": {"15 MB": 2112 * 7168 / 1e6},
    "15_big_tile": {"1.6": 6 * 12 / (5 * 9), "162.6 us": in_results(162.6)},
    "README": {
        "4.8": 4.8,  # a version
        "2 %": 100 * (max(OF_PRODUCT) / min(OF_PRODUCT) - 1),
    },
    "01_epilogue": {
        "24.8 us": of_tutorial("01", "yours") - of_tutorial("01", "the library's, without"),
        "291.7": of_tutorial("01", "the library's, then") - of_tutorial("01", "the library's, without"),
        "34 MB": 2 * 4096 * 4096 / 1e6,
        "7 us": 2 * 4096 * 4096 / 4.8e6,
    },
    "02_scheduler": {"4 %": 100 * 132 / 3200},
}
"""Figures that no row has: by file, with what they are worked out from."""


def objections(path: Path, text: str) -> list[str]:
    """Figures that nothing is known of."""
    known = [*follows(sources(path, text))]
    given = WORKED_OUT.get(path.stem, {})
    return [
        str(figure)
        for figure in figures(text)
        if not (str(figure) in given and figure.is_of(given[str(figure)]))
        # Of several times, or shares, the text gives the unit once.
        and not any(figure.unit in ("", unit) and figure.is_of(value) for unit, value in known)
    ]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_figures_in_prose_are_on_record(path: Path) -> None:
    assert objections(path, read(path)) == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_is_worked_out_is_in_the_text(path: Path) -> None:
    shown = {str(figure) for figure in figures(read(path))}
    assert [each for each in WORKED_OUT.get(path.stem, {}) if each not in shown] == []


def test_what_is_worked_out_is_of_a_text() -> None:
    assert WORKED_OUT.keys() <= {path.stem for path in TEXTS}


def test_what_was_not_measured_is_found() -> None:
    path = EXAMPLES / "ladder" / "06_promotion.py"
    right = "367.6 us in place of 275.7, 33 % more, 654 TFLOP/s, 33.1 % of 121.5 us; 1.4e-06, 1.33."
    assert objections(path, right) == []
    wrong = "367.4 us, 275.8, 32 %, 655 TFLOP/s, 33.2 %, 1.5e-06, 1.34, 267.9 us, 654 GB/s, 2.8 GB."
    assert objections(path, wrong) == wrong.removesuffix(".").split(", ")
    # Once it is named, what it took may be told.
    assert objections(path, "Rung 7 takes 267.9 us.") == []


def test_figures_are_told_from_other_numbers() -> None:
    text = """Rows 4 % 32 of `1.5 us`, 128 x 256, of rung 7.

| 5.5 us |

    7.5 us

It takes **5.25 us**, [1474 TFLOP/s](results.md/1.5), and 64 users 2 %: 1e-06.

## Measured

9.5 us

## What follows

8 TB/s."""
    assert [*map(str, figures(prose(text)))] == ["5.25 us", "1474 TFLOP/s", "2 %", "1e-06", "8 TB/s"]
