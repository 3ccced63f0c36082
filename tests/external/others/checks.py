"""Runs checks, and says of each whether it passed, failed, or wants a family that cute_gemm has not yet."""

from __future__ import annotations

import argparse
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import posing

NOT_YET = "cute_gemm has no "
PASSED, FAILED, MISSING, SKIPPED = "passed", "failed", "not there yet", "skipped"


def begin(doc: str | None, *wanted: Path, poses: bool = True) -> Path:
    """The checkout that the command line names; where it has not these files, the process ends.

    Without `poses`, CUDA is not asked for.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    checkout = parser.parse_args().checkout.resolve()
    for path in wanted:
        if not (checkout / path).is_file():
            print(f"skipped: {checkout} has no {path}")
            sys.exit(0)
    if poses:
        print("on the CPU, which poses as a Hopper GPU" if posing.pose() else "on this machine's Hopper GPU")
    import deep_gemm

    assert deep_gemm.__name__ == "cute_gemm.compat.deep_gemm", f"deep_gemm is {deep_gemm.__file__}"
    print(f"checkout: {_commit(checkout)}", flush=True)
    return checkout


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "log", "-1", "--format=%h of %cs"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "of no commit"


class Checks:
    """What was run, and what came of it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __call__(self, name: str, call: Callable[[], Any]) -> None:
        """Runs one; what it returns is said, too."""
        try:
            said = call()
        except Exception as error:
            if not is_missing(error):
                traceback.print_exc()
            self._say(name, MISSING if is_missing(error) else FAILED, str(error).split("\n")[0])
        else:
            self._say(name, PASSED, "" if said is None else str(said))

    def of_pytest(self) -> Any:
        """A plugin that does so with each test; what wants a missing family has failed to pytest as well."""
        import pytest

        checks = self

        class Plugin:
            @pytest.hookimpl(wrapper=True)
            def pytest_runtest_makereport(self, item: Any, call: Any) -> Generator[None, Any, Any]:
                report = yield
                if report.when != "call" and report.passed:
                    return report
                if report.skipped:
                    outcome = SKIPPED
                elif report.passed:
                    outcome = PASSED
                else:
                    outcome = MISSING if is_missing(call.excinfo.value) else FAILED
                said = "" if call.excinfo is None else str(call.excinfo.value).split("\n")[0]
                if outcome == MISSING:
                    report.outcome, report.wasxfail = "skipped", said
                checks._say(item.nodeid.split("::", 1)[-1], outcome, said)
                return report

        return Plugin()

    def end(self) -> int:
        """The exit status: how many failed, or 1 where nothing was run."""
        print(
            ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.counts.items())) or "nothing ran"
        )
        return self.counts[FAILED] if self.counts else 1

    def _say(self, name: str, outcome: str, said: str) -> None:
        self.counts[outcome] += 1
        print(f"  {outcome}: {name}{': ' if said else ''}{said}", flush=True)


def is_missing(error: BaseException) -> bool:
    """Whether the drop-in has refused a call for want of what it has not yet."""
    return isinstance(error, NotImplementedError) and NOT_YET in str(error)
