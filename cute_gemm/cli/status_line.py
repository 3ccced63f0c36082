"""What a command that takes seconds is doing right now."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.text import Text

from cute_gemm.measure.console import PlainConsole, printable

from .output import Records

_COMPILER = "cute_gemm.runtime.compiler"


class _MovingLine(Records):
    """Shows progress in a line that moves; what is to stay takes a line of its own."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            super().emit(record)
        else:
            self._show(record.getMessage())


@contextmanager
def status_line(message: str) -> Iterator[Callable[[str], None]]:
    """A moving line on stderr: what the caller passes to the yielded function and what the compiler logs."""
    console = PlainConsole(stderr=True)
    logger = logging.getLogger(_COMPILER)
    level = logger.level
    # A string would be taken for markup.
    with console.status(Text(printable(message))) as status:

        def update(message: str) -> None:
            status.update(Text(printable(message)))

        # Where a line cannot move, only what takes seconds is worth one.
        handler = _MovingLine(update) if console.is_terminal else Records(logging.INFO)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield update
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
