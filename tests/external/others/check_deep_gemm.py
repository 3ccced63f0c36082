"""DeepGEMM's test_lazy_init.py, unmodified: after its import a process can fork, and its child use CUDA.

    git clone https://github.com/deepseek-ai/DeepGEMM
    python tests/external/run_others.py --deep-gemm DeepGEMM

Without a GPU, a stub of `torch.cuda.set_device` tells whether its parent asked for CUDA. DeepGEMM's other
tests are run by run_deep_gemm.py, on a Hopper GPU.
"""

from __future__ import annotations

import runpy
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from checks import Checks, begin

TEST = Path("tests", "test_lazy_init.py")


GPUS = "import torch; print(torch.cuda.device_count())"


def main() -> int:
    # A process that has counted its GPUs cannot fork any more.
    checkout = begin(__doc__, TEST, poses=False)
    checks = Checks()
    checks("test_lazy_init", partial(lazy_init, checkout / TEST))
    return checks.end()


def lazy_init(test: Path) -> str:
    import torch
    import torch.multiprocessing

    started: list[Any] = []

    class Process(torch.multiprocessing.Process):
        def start(self) -> None:
            started.append(self)
            super().start()

    gpus = int(subprocess.check_output([sys.executable, "-c", GPUS], text=True))
    count = gpus or 2
    with ExitStack() as patches:
        if not gpus:
            patches.enter_context(mock.patch.object(torch.cuda, "set_device", set_device))
        patches.enter_context(mock.patch.object(torch.multiprocessing, "Process", Process))
        patches.enter_context(mock.patch.object(sys, "argv", [str(test), "--num-processes", str(count)]))
        runpy.run_path(str(test), run_name="__main__")
    # It does not look at how they end.
    ends = [process.exitcode for process in started]
    assert ends == [0] * count, f"processes ended with {ends}"
    return f"{count} processes, {gpus} GPUs"


def set_device(index: int) -> None:
    import torch

    assert not torch.cuda._is_in_bad_fork(), "CUDA was asked for before the fork"


if __name__ == "__main__":
    sys.exit(main())
