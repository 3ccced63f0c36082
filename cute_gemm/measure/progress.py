"""The progress bar of what takes minutes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .console import PlainConsole

_Item = TypeVar("_Item")


def track(items: Sequence[_Item], description: str) -> Iterator[_Item]:
    """Yield items, with a bar on stderr that moves as they are done."""
    console = PlainConsole(stderr=True)
    if not console.is_terminal:
        # A bar needs a line that moves, and lines that go to a file must not be caught by it.
        yield from items
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:
        yield from progress.track(items, description=description)
