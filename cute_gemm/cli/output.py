"""The streams of the program: what cannot be printed is escaped, and nothing is a traceback."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from cute_gemm.measure.console import in_a_line, say

PROGRAM = "cute-gemm"
BROKEN_PIPE = 141
"""The status when nobody reads on: what shells give for a program that SIGPIPE has ended."""


@contextlib.contextmanager
def tamed() -> Iterator[None]:
    """Within it, any text can be printed in any encoding; warnings and log records take a line each."""
    with contextlib.ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:
                # It was closed when Python started. Python would print to the other one.
                stack.callback(setattr, sys, name, None)
                setattr(sys, name, stack.enter_context(open(os.devnull, "w")))
            elif hasattr(stream, "reconfigure"):
                stack.callback(_reconfigure, stream, stream.errors)
                stream.reconfigure(errors="backslashreplace")
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = _show_warning
        stack.callback(setattr, logging, "lastResort", logging.lastResort)
        logging.lastResort = Records(logging.WARNING)
        yield


def report(message: object) -> None:
    """A line on standard error that names the program, as far as anybody reads it."""
    with contextlib.suppress(OSError):
        say(f"{PROGRAM}: {in_a_line(message)}", sys.stderr)


def give_up(*streams: TextIO) -> None:
    """Let what streams cannot write go nowhere: Python would try again when it ends, and complain."""
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
            continue
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


class Records(logging.Handler):
    """A line on standard error for each log record, with its level where that is more than information."""

    def emit(self, record: logging.LogRecord) -> None:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        report(f"{level}{record.getMessage()}")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    report(f"warning: {message}")


def _reconfigure(stream: Any, errors: str) -> None:
    # It flushes, which may fail.
    with contextlib.suppress(OSError, ValueError):
        stream.reconfigure(errors=errors)
