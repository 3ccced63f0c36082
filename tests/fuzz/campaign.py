"""What fuzzers share: cases by number, each from a seed of its own, and how to repeat one that failed."""

from __future__ import annotations

import argparse
import itertools
import random
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Case = Callable[[random.Random], None]
"""Draws a case and runs it; whatever it raises is a failure."""

MOST_FAILURES = 10
"""After so many a campaign ends: what comes next has likely the same cause."""


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


def main(case: Case, argv: Sequence[str] | None = None) -> int:
    """The command line of a fuzzer: as many cases, or as long, as asked for.

    Returns:
        The exit status: 1 if some case failed.
    """
    parser = argparse.ArgumentParser(description=sys.modules[case.__module__].__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--count", type=int, help="how many cases; 1000 if nothing is said")
    length.add_argument("--seconds", type=float, help="how long to go on")
    length.add_argument("--only", type=int, metavar="NUMBER", help="one case, as a failure names it")
    args = parser.parse_args(argv)
    started, failed, ran = time.monotonic(), 0, 0
    print(f"seed {args.seed}", flush=True)
    columns = SpinnerColumn(), TextColumn("{task.completed} cases"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=None)
        for number in _numbers(args, started):
            try:
                case(random_of(args.seed, number))
            except Exception:
                failed += 1
                again = shlex.join(["python", sys.argv[0], "--seed", str(args.seed), "--only", str(number)])
                print(f"{traceback.format_exc()}case {number} failed; again: {again}", flush=True)
                if failed == MOST_FAILURES:
                    break
            ran += 1
            progress.advance(task)
    print(f"{ran} cases in {time.monotonic() - started:.0f} s, {failed} failed, seed {args.seed}")
    return 1 if failed else 0


def _numbers(args: argparse.Namespace, started: float) -> Iterator[int]:
    if args.only is not None:
        return iter([args.only])
    if args.seconds is None:
        return iter(range(args.count or 1000))
    return itertools.takewhile(lambda _: time.monotonic() - started < args.seconds, itertools.count())
