"""DeepGEMM's test_lazy_init.py, unmodified, and what test_fp8_fp4.py does with gradients of weights.

    git clone https://github.com/deepseek-ai/DeepGEMM
    python tests/external/run_others.py --deep-gemm DeepGEMM

The first has a process fork after the import, whose child uses CUDA. Without a GPU, a stub of
`torch.cuda.set_device` tells whether its parent asked for CUDA. Of the second, functions are run unmodified,
on problems that a CPU can compute, without times. All of DeepGEMM's problems, and its other tests, are run by
run_deep_gemm.py, on a Hopper GPU.
"""

from __future__ import annotations

import importlib
import os
import runpy
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import posing
from checks import Checks, begin

TEST = Path("tests", "test_lazy_init.py")
PRODUCTS = Path("tests", "test_fp8_fp4.py")
KS = [[200, 130, 300], [1, 0, 257]]

GPUS = "import torch; print(torch.cuda.device_count())"


def main() -> int:
    # A process that has counted its GPUs cannot fork any more.
    checkout = begin(__doc__, TEST, poses=False)
    checks = Checks()
    checks("test_lazy_init", partial(lazy_init, checkout / TEST))
    if (checkout / PRODUCTS).is_file():
        posing.pose()
        # Its timers then say 1 s.
        os.environ["DG_USE_NVIDIA_TOOLS"] = "1"
        sys.path.insert(0, str(checkout / PRODUCTS.parent))
        checks("test_fp8_fp4: gradients of weights", gradients)
        checks("test_fp8_fp4: gradients of experts' weights", gradients_of_experts)
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


def gradients() -> str:
    import torch

    generators, test = map(importlib.import_module, ("generators", "test_fp8_fp4"))
    major = generators.MajorTypeAB.KMajor
    kind, config = generators.KernelType.Kernel1D1D, generators.QuantConfig()
    problems = [
        (kind, config, m, n, k, major, major, *result)
        for m, n, k in ((256, 136, 384), (1, 128, 128), (130, 8, 1024))
        for result in ((True, torch.float), (False, torch.bfloat16))
    ]
    with mock.patch.object(test, "enumerate_normal", return_value=problems):
        test.test_gemm()
    return f"{len(problems)} problems"


def gradients_of_experts() -> str:
    generators, test = map(importlib.import_module, ("generators", "test_fp8_fp4"))
    major = generators.MajorTypeAB.KMajor
    problems = [
        (len(ks), m, n, major, major, ks, [-(-k // 128) * 128 for k in ks], 128, 128, 128, False)
        for m, n in ((256, 136), (130, 128))
        for ks in KS
    ]
    with mock.patch.object(test, "enumerate_k_grouped_contiguous", return_value=problems):
        test.test_k_grouped_gemm_contiguous()
    return f"{len(problems)} problems"


def set_device(index: int) -> None:
    import torch

    assert not torch.cuda._is_in_bad_fork(), "CUDA was asked for before the fork"


if __name__ == "__main__":
    sys.exit(main())
