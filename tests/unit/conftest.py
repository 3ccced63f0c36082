"""What tests of this folder share is a module beside them. Choices are the cost model's."""

import sys
from pathlib import Path

import pytest

from cute_gemm.plan import tuned

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def nothing_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine's user and the package have measured."""
    monkeypatch.setattr(tuned, "choice", lambda problem, device_name: None)
