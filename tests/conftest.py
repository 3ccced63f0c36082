"""The `gpu` marker: everything under tests/gpu has it, and what has it is skipped without a Hopper GPU."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import cute_gemm
from cute_gemm.runtime import hardware

GPU_TESTS = Path(__file__).parent / "gpu"

# Processes that tests start import the package under test, and find what else this one was given.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(cute_gemm.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
)


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if GPU_TESTS in item.path.parents:
            item.add_marker(pytest.mark.gpu)
        if reason_to_skip() and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason_to_skip()))
