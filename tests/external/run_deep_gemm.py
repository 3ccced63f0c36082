"""DeepGEMM's own tests, unmodified, on `cute_gemm.compat.deep_gemm`.

    git clone https://github.com/deepseek-ai/DeepGEMM
    python tests/external/run_deep_gemm.py DeepGEMM

It runs, of a checkout of DeepGEMM 2.6, tests/test_layout.py, tests/test_lazy_init.py and
tests/test_fp8_fp4.py.
Without a Hopper GPU, or without a checkout, there is nothing to run, which is no failure.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TESTS = ("test_layout", "test_lazy_init", "test_fp8_fp4")
FP8_TESTS = (
    "test_gemm",
    "test_m_grouped_gemm_contiguous",
    "test_m_grouped_gemm_masked",
    "test_k_grouped_gemm_contiguous",
)
ENUMERATIONS = (
    "enumerate_normal",
    "enumerate_m_grouped_contiguous",
    "enumerate_m_grouped_masked",
    "enumerate_k_grouped_contiguous",
)
LIMIT_S = 3600


def main() -> int:
    """Runs what is asked for; the exit status is the number of tests that failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, nargs="?", help="a checkout of DeepGEMM")
    parser.add_argument("--only", choices=TESTS, action="append", help="this test; may be said again")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of test_fp8_fp4 each N-th problem")
    parser.add_argument("--no-times", action="store_true", help="results alone, which is much faster")
    parser.add_argument("--drive", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.drive:
        drive(asked.every)
        return 0
    reason = reason_to_skip(asked.checkout)
    if reason:
        print(f"skipped: {reason}")
        return 0
    return sum(not run(name, asked) for name in asked.only or TESTS)


def reason_to_skip(checkout: Path | None) -> str:
    """Why there is nothing to run; empty where there is."""
    if checkout is None:
        return "no checkout of DeepGEMM is named"
    if not (checkout / "tests" / "generators.py").is_file():
        return f"{checkout} is no checkout of DeepGEMM: it has no tests/generators.py"
    sys.path.insert(0, str(ROOT))
    from cute_gemm.runtime import hardware

    return "" if hardware.is_hopper() else "torch sees no Hopper GPU"


def run(name: str, asked: argparse.Namespace) -> bool:
    """Whether a test passes, in a process of its own that finds the drop-in as `deep_gemm`."""
    tests = asked.checkout.resolve() / "tests"
    command = [sys.executable, str(tests / f"{name}.py")]
    if name == "test_lazy_init":
        command += ["--num-processes", "1"]
    if name == "test_fp8_fp4":
        command = [sys.executable, str(Path(__file__).resolve()), "--drive", "--every", str(asked.every)]
    paths = [str(ROOT / "drop_in"), str(ROOT), str(tests), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    if asked.no_times:
        # Its timers then say 1 s.
        environment["DG_USE_NVIDIA_TOOLS"] = "1"
    print(f"== {name}", flush=True)
    start = time.monotonic()
    done = subprocess.run(
        command, env=environment, check=False, timeout=LIMIT_S, text=True, stderr=subprocess.PIPE
    )
    print(done.stderr, file=sys.stderr, end="", flush=True)
    # test_lazy_init does not look at how its processes end.
    passed = done.returncode == 0 and "Traceback" not in done.stderr
    verdict = "passed" if passed else f"failed, exit status {done.returncode}"
    print(f"== {name} {verdict} after {time.monotonic() - start:.0f} s", flush=True)
    return passed


def drive(every: int) -> None:
    """test_fp8_fp4; its modules are on the path."""
    import torch

    narrow(importlib.import_module("generators"), every)
    module = importlib.import_module("test_fp8_fp4")
    print(f"deep_gemm is {importlib.import_module('deep_gemm').__name__}", flush=True)
    torch.manual_seed(0)
    random.seed(0)
    for name in FP8_TESTS:
        getattr(module, name)()


def narrow(generators: Any, every: int) -> None:
    """Has a module enumerate each N-th problem."""
    for name in ENUMERATIONS:
        setattr(generators, name, _narrowed(getattr(generators, name), every))


def _narrowed(enumerate_all: Callable[..., Iterator[Any]], every: int) -> Callable[..., Iterator[Any]]:
    def enumerate_some(*args: Any, **kwargs: Any) -> Iterator[Any]:
        return itertools.islice(enumerate_all(*args, **kwargs), 0, None, every)

    return enumerate_some


if __name__ == "__main__":
    sys.exit(main())
