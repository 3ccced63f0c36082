"""What tests of this folder share is a module beside them. Choices are the cost model's."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cute_gemm.plan import tuned
from cute_gemm.runtime import cache

sys.path.append(str(Path(__file__).parent))

from cache_places import opened


@pytest.fixture(autouse=True)
def nothing_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine's user and the package have measured."""
    monkeypatch.setattr(tuned, "choice", lambda problem: None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[cache.KernelStore]:
    """A store of kernels, empty."""
    with opened(tmp_path) as store:
        yield store


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the cache is to be; its name has a blank."""
    directory = tmp_path / "na med"
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(directory))
    return directory
