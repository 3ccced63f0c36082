"""Kernels that tests name, compiled side by side before the first test: one after the other takes minutes.

By default tests are of one kernel of each kind, with `--exhaustive` of every one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kinds import kinds

from cute_gemm.plan import candidates
from cute_gemm.runtime import cache

# What these tests share is a module beside them.
sys.path.append(str(Path(__file__).parent))

CONFIGS = candidates.every_config()
PROCESSES = 14
COMPILE = """
import json, sys
from cute_gemm.plan import candidates
from cute_gemm.runtime import builder

names = set(json.load(sys.stdin))
for config in candidates.every_config():
    if config.name in names:
        builder.instance(config)
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`@pytest.mark.every_config(where=..., step=1)`: a test of each `config` for which `where` holds.

    That is with `--exhaustive`, or of every `step`-th; else of one of each kind.
    """
    for mark in metafunc.definition.iter_markers("every_config"):
        configs = [config for config in CONFIGS if mark.kwargs["where"](config)]
        is_exhaustive = metafunc.config.getoption("exhaustive")
        chosen = configs[:: mark.kwargs.get("step", 1)] if is_exhaustive else kinds(configs)
        metafunc.parametrize("config", chosen, ids=lambda config: config.name)


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The disk cache, filled; where it is switched off or may not be used, one in a temporary directory."""
    if cache.cache_dir() is None or cache.cache_info().refusal:
        os.environ[cache.DIRECTORY_VARIABLE] = str(tmp_path_factory.mktemp("kernels"))
    callspecs = [item.callspec for item in request.session.items if hasattr(item, "callspec")]
    named = {spec.params["config"].name for spec in callspecs if "config" in spec.params}
    wanted = CONFIGS if request.config.getoption("exhaustive") else kinds(CONFIGS)
    names = sorted(named | {config.name for config in wanted})
    count = min(PROCESSES, len(os.sched_getaffinity(0)))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COMPILE],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for _ in range(count)
    ]
    # What they take is short, and each reads it at once: none waits for another.
    for first, process in enumerate(processes):
        assert process.stdin is not None
        process.stdin.write(json.dumps(names[first::count]))
        process.stdin.close()
        process.stdin = None
    logs = [process.communicate(timeout=900)[1] for process in processes]
    for process, log in zip(processes, logs, strict=True):
        assert process.returncode == 0, f"a kernel does not compile:\n{log}"
