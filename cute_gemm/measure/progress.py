"""The progress bar of what takes minutes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .console import PlainConsole

_Item = TypeVar("_Item")


def track(items: Sequence[_Item], description: str) -> Iterator[_Item]:
    """Yield items, with a bar on stderr that moves as they are done."""
    yield from track_as_made(items, len(items), description)


def track_as_made(items: Iterable[_Item], count: int, description: str) -> Iterator[_Item]:
    """The same of items that come one by one; ``count`` says how many."""
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
        TimeRemainingColumn(),
        console=console,
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:
        yield from progress.track(items, total=count, description=description)
