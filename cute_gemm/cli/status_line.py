"""What a command that takes seconds is doing right now."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.text import Text

from cute_gemm.measure.console import PlainConsole, printable

from .output import report_record

_COMPILER = "cute_gemm.runtime.compiler"


class _Shown(logging.Handler):
    """Progress goes to the line that moves, if it does; what is to stay takes a line of its own."""

    def __init__(self, show: Callable[[str], None] | None) -> None:
        super().__init__(logging.INFO)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        if self._show is None or record.levelno >= logging.WARNING:
            report_record(record)
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
        handler = _Shown(update if console.is_terminal else None)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield update
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
