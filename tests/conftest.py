"""The markers `gpu` and `thorough`, and `--exhaustive`.

Everything under tests/gpu has the first, and what has it is skipped without a Hopper GPU. What has the second
is left out, for the rest takes minutes enough: `--thorough` runs it as well, and `--thorough -m thorough`
nothing else. Of kernels that are compiled some are tested, with `--exhaustive` every one; and properties that
take long to test are tested with more examples.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

import cute_gemm
from cute_gemm.runtime import hardware

GPU_TESTS = Path(__file__).parent / "gpu"

MOST_PROCESSES = 4
"""Each compiles kernels, which takes about 1 GB of memory."""

# What tests of several folders share is a module beside this one.
sys.path.append(str(Path(__file__).parent))

# A shell has what it runs in the background ignore Ctrl-C, and so what that starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Processes that tests start import the package under test, and find what else this one was given.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(cute_gemm.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
)

# Of several processes each has its share of the cores: else torch's threads would wait for each other's.
if WORKERS := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    SHARE = max(1, len(os.sched_getaffinity(0)) // WORKERS)
    torch.set_num_threads(SHARE)
    os.environ.setdefault("OMP_NUM_THREADS", str(SHARE))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="compile every kernel that can be chosen, not some of each kind: takes 20 minutes of one core; "
        "implies --thorough",
    )
    parser.addoption(
        "--thorough", action="store_true", help="run what is marked `thorough`, too: minutes of one core"
    )


def pytest_configure(config: pytest.Config) -> None:
    settings = hypothesis.settings
    name, parent = "usual", settings.get_current_profile_name()
    if config.getoption("exhaustive"):
        name, parent = "exhaustive", "default"
    # No deadlines: they would make a busy machine a failure.
    settings.register_profile(name, settings.get_profile(parent), deadline=None)
    settings.load_profile(name)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Spreads all tests, where nobody says how, over the cores: on a GPU they would disturb each other."""
    if hasattr(config, "workerinput"):
        # One of the processes, which would start as many again.
        return
    asked = config.option
    is_all = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    may_spread = config.pluginmanager.hasplugin("xdist") and not (asked.usepdb or asked.collectonly)
    if is_all and may_spread and asked.numprocesses is None and reason_to_skip():
        asked.numprocesses, asked.dist = min(len(os.sched_getaffinity(0)), MOST_PROCESSES), "loadgroup"


@functools.cache
def reason_to_skip() -> str:
    """Why GPU tests cannot run here; empty where they can."""
    if not torch.cuda.is_available():
        return "needs a Hopper GPU (compute capability 9.0); torch sees no CUDA device"
    if not hardware.is_hopper():
        return f"needs a Hopper GPU (compute capability 9.0); found {hardware.describe()}"
    return ""


class SkippedModule(pytest.File):
    """Stands in for a test module that is not imported: the DSL it imports takes seconds to load."""

    def collect(self) -> Iterator[pytest.Item]:
        yield SkippedTests.from_parent(self, name="all tests")


class SkippedTests(pytest.Item):
    def runtest(self) -> None:
        raise AssertionError("skipped tests do not run")

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.name


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if reason_to_skip() and GPU_TESTS in module_path.parents:
        return SkippedModule.from_parent(parent, path=module_path)
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not (config.getoption("thorough") or config.getoption("exhaustive")):
        left_out = [item for item in items if item.get_closest_marker("thorough")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    for item in items:
        if GPU_TESTS in item.path.parents:
            item.add_marker(pytest.mark.gpu)
        if reason_to_skip() and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason_to_skip()))
