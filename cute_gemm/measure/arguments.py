"""Types of arguments on the command line."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from .shapes import Shape


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"want a whole number of at least 1, got {text!r}")
    return int(text)


def number_from(least: float, what: str = "a number") -> Callable[[str], float]:
    """The type of a finite number of at least ``least``; ``what`` it is, a message says."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not least <= number < math.inf:
            raise argparse.ArgumentTypeError(f"want {what} from {least} on, got {text!r}")
        return number

    return parse


def shape(text: str) -> Shape:
    """``MxNxK``, or ``GxMxNxK`` for groups of about M rows: ``"64x2112x7168"`` as (64, 2112, 7168)."""
    parts = text.split("x")
    if len(parts) not in (3, 4) or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"want MxNxK or GxMxNxK, numbers from 1 on; got {text!r}")
    return tuple(map(int, parts))
