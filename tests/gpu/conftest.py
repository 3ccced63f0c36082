"""Every kernel that may be chosen, compiled side by side before the first test: one after the other takes
minutes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cute_gemm.runtime import cache

# What these tests share is a module beside them.
sys.path.append(str(Path(__file__).parent))

PROCESSES = 14
COMPILE = """
import sys
from cute_gemm.plan import candidates
from cute_gemm.runtime import dispatch

first, step = map(int, sys.argv[1:])
for config in candidates.every_config()[first::step]:
    dispatch.instance(config)
"""


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The disk cache, filled; where it is switched off or may not be used, one in a temporary directory."""
    if cache.cache_dir() is None or cache.cache_info().refusal:
        os.environ[cache.DIRECTORY_VARIABLE] = str(tmp_path_factory.mktemp("kernels"))
    count = min(PROCESSES, len(os.sched_getaffinity(0)))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COMPILE, str(first), str(count)],
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for first in range(count)
    ]
    logs = [process.communicate(timeout=900)[1] for process in processes]
    for process, log in zip(processes, logs, strict=True):
        assert process.returncode == 0, f"a kernel does not compile:\n{log}"
