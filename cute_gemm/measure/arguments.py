"""Types of arguments on the command line."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from ..plan.limits import MAX_EXTENT
from .shapes import Shape


def positive(text: str) -> int:
    """A whole number of at least 1, and of at most what an extent may be."""
    if not _is_extent(text):
        raise argparse.ArgumentTypeError(
            f"want a whole number of at least 1, got {_shown(text)} (at most {MAX_EXTENT})"
        )
    return int(text)


def number_from(least: float, what: str = "a number") -> Callable[[str], float]:
    """The type of a finite number of at least ``least``; ``what`` it is, a message says."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not least <= number < math.inf:
            raise argparse.ArgumentTypeError(f"want {what} from {least} on, got {_shown(text)}")
        return number

    return parse


def shape(text: str) -> Shape:
    """``MxNxK``, or ``GxMxNxK`` for groups of about M rows: ``"64x2112x7168"`` as (64, 2112, 7168)."""
    return _shape(text, ("MxNxK", "GxMxNxK"))


def shape_of_any(text: str) -> Shape:
    """The same, or ``MxK`` of a quantiser, or ``TxExAxCxKxI`` of an expert layer."""
    return _shape(text, ("MxNxK", "GxMxNxK", "MxK", "TxExAxCxKxI"))


def _shape(text: str, wanted: tuple[str, ...]) -> Shape:
    parts = text.split("x")
    lengths = [each.count("x") + 1 for each in wanted]
    if len(parts) not in lengths or not all(map(_is_extent, parts)):
        raise argparse.ArgumentTypeError(
            f"want {' or '.join(wanted)}, numbers from 1 on; got {_shown(text)} (at most {MAX_EXTENT} each)"
        )
    return tuple(map(int, parts))


def _is_extent(text: str) -> bool:
    # Python refuses to read thousands of digits.
    return text.isdecimal() and len(text) < 20 and 1 <= int(text) <= MAX_EXTENT


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
