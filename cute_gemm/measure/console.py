"""Where lines and tables are printed. What comes from files, or from elsewhere, must not steer a terminal."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table


def printable(text: object) -> str:
    """A text in one line, with escapes such as ``\\x1b`` in place of characters that print nothing."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text)
    )


def in_a_line(error: object) -> str:
    """What an exception says, in one line."""
    return printable(" ".join(str(error).split()))


def say(text: str, file: TextIO | None = None) -> None:
    """Print lines, each as `printable` makes it; to standard output unless told otherwise."""
    print("\n".join(map(printable, text.split("\n"))), file=file)


class PlainConsole(Console):
    """Prints strings as they are, without markup or emoji, and raises what rich would exit at."""

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class PlainTable(Table):
    """Shows texts of its rows as `printable` makes them."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def wide_console(least: int = 130) -> Console:
    """Standard output, at least so many columns wide.

    Rich would cut figures to fit a narrow terminal, or the 80 columns it gives a pipe; let lines wrap.
    """
    return PlainConsole(width=max(PlainConsole().width, least))


def failed(failures: list[str]) -> int:
    """Print what failed to standard error, a line each; gives the exit status."""
    for failure in failures:
        say(f"FAILED {failure}", sys.stderr)
    return 1 if failures else 0
