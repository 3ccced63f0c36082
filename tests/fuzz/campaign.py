"""What fuzzers share: cases by number, each from a seed of its own, and how to repeat one that failed."""

from __future__ import annotations

import argparse
import faulthandler
import functools
import itertools
import os
import random
import shlex
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Case = Callable[..., None]
"""Draws a case from a ``random.Random`` and runs it; whatever it raises is a failure."""

MOST_FAILURES = 10
"""After so many a campaign ends: what comes next has likely the same cause."""

PATIENCE_S = 300
"""A case that takes longer hangs, which ends a campaign."""


def random_of(seed: int, number: int) -> random.Random:
    """What the case of a number draws from: it needs none of the cases before it."""
    return random.Random(f"{seed}:{number}")


def run(case: Case, seed: int, count: int) -> None:
    """The first ``count`` cases of a seed, for a test: whatever a case raises names it."""
    for number in range(count):
        try:
            case(random_of(seed, number))
        except Exception as error:
            raise AssertionError(f"case {number} of seed {seed} failed: {error}") from error


def main(
    case: Case, argv: Sequence[str] | None = None, options: argparse.ArgumentParser | None = None
) -> int:
    """The command line of a fuzzer: as many cases, or as long, as asked for.

    Args:
        case: of the fuzzer.
        argv: the arguments; None for those of the process.
        options: the fuzzer's own, which a case takes by name; made with ``add_help=False``.

    Returns:
        The exit status: 1 if some case failed.
    """
    own = vars(options.parse_known_args(argv)[0]) if options else {}
    parser = argparse.ArgumentParser(
        description=sys.modules[case.__module__].__doc__, parents=[options] if options else []
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--count", type=int, help="how many cases; 1000 if nothing is said")
    length.add_argument("--seconds", type=float, help="how long to go on")
    length.add_argument("--only", type=int, metavar="NUMBER", help="one case, as a failure names it")
    args = parser.parse_args(argv)
    case = functools.partial(case, **own)
    command = ["python", sys.argv[0], *(f"--{name}={value}" for name, value in own.items())]
    watch = _Watch(shlex.join([*command, "--seed", str(args.seed)]))
    started, failed, ran = time.monotonic(), 0, 0
    print(f"seed {args.seed}", flush=True)
    columns = SpinnerColumn(), TextColumn("{task.completed} cases"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=None)
        for number in _numbers(args, started):
            watch.begin(number)
            try:
                case(random_of(args.seed, number))
            except Exception:
                failed += 1
                print(f"{traceback.format_exc()}case {number} failed; again: {watch.again}", flush=True)
                if failed == MOST_FAILURES:
                    break
            ran += 1
            progress.advance(task)
    watch.end()
    print(f"{ran} cases in {time.monotonic() - started:.0f} s, {failed} failed, seed {args.seed}")
    return 1 if failed else 0


class _Watch:
    """Ends the process when a case hangs, and says which."""

    def __init__(self, command: str) -> None:
        self._command, self._number, self._begun = command, 0, time.monotonic()
        self._ended = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    @property
    def again(self) -> str:
        """The command that repeats the present case."""
        return f"{self._command} --only {self._number}"

    def begin(self, number: int) -> None:
        self._number, self._begun = number, time.monotonic()

    def end(self) -> None:
        self._ended.set()

    def _look(self) -> None:
        while not self._ended.wait(1):
            if time.monotonic() - self._begun > PATIENCE_S:
                self._give_up()

    def _give_up(self) -> None:
        faulthandler.dump_traceback()
        print(f"case {self._number} hangs; again: {self.again}", flush=True)
        os._exit(1)


def _numbers(args: argparse.Namespace, started: float) -> Iterator[int]:
    if args.only is not None:
        return iter([args.only])
    if args.seconds is None:
        return iter(range(1000 if args.count is None else args.count))
    return itertools.takewhile(lambda _: time.monotonic() - started < args.seconds, itertools.count())
