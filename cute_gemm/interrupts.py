"""Ctrl-C in the command line, from the first moment on: it ends with status 130, and without a word.

The package imports torch, which takes seconds, before `cli.main` can run. So to import this module, which
`cute_gemm` does first, prepares for it where the process is the program, and does nothing anywhere else.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 130
"""What shells give for a process that an interrupt has ended."""


class Interrupts:
    """Whether one came: some libraries turn it into an exception of their own."""

    came = False


@contextmanager
def noticed() -> Iterator[Interrupts]:
    """Within it, an interrupt raises KeyboardInterrupt and is remembered.

    Nothing changes where interrupts are ignored, or handled by others, and outside of the main thread.
    """
    interrupts = Interrupts()

    def interrupt(signum: int, frame: FrameType | None) -> None:
        interrupts.came = True
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if not _is_main_thread() or before not in (signal.default_int_handler, _leave):
        yield interrupts
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(signum: int, frame: FrameType | None) -> None:
    # No exception: what is being imported might catch it, and there is nothing to tidy up.
    os._exit(STATUS)


def _is_program() -> bool:
    """Whether this process is `cute-gemm`, or `python -m cute_gemm`, which imports the package first."""
    argv = getattr(sys, "argv", [])
    if argv[:1] == ["-m"]:
        return " -mcute_gemm " in " ".join([*sys.orig_argv, ""]).replace(" -m ", " -m")
    return bool(argv) and os.path.basename(argv[0]) == "cute-gemm"


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


if _is_program() and _is_main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)
