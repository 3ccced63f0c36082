"""What runs others' tests: it skips where there is nothing to run, and leaves out what it says."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from cute_gemm.runtime import hardware

SCRIPT = Path(__file__).parents[1] / "external" / "run_deep_gemm.py"


@pytest.fixture
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("run_deep_gemm", SCRIPT)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Tests that say where `deep_gemm` comes from, and fail if they are to."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "generators.py").touch()
    for name in ("test_layout", "test_lazy_init"):
        text = (
            "import deep_gemm, sys\nprint(sys.argv[1:])\nassert deep_gemm.__name__.startswith('cute_gemm')\n"
        )
        (tmp_path / "tests" / f"{name}.py").write_text(text)
    return tmp_path


def test_without_a_checkout_or_a_gpu_it_skips(
    script: ModuleType, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "skipped: no checkout of DeepGEMM is named\n"
    assert "it has no tests/generators.py" in script.reason_to_skip(checkout.parent)
    monkeypatch.setattr(hardware, "is_hopper", lambda: False)
    assert script.reason_to_skip(checkout) == "torch sees no Hopper GPU"
    monkeypatch.setattr(hardware, "is_hopper", lambda: True)
    assert script.reason_to_skip(checkout) == ""


@pytest.mark.thorough
def test_tests_find_the_drop_in(
    script: ModuleType, checkout: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = SimpleNamespace(checkout=checkout, every=1, no_times=True)
    assert script.run("test_layout", asked)
    assert script.run("test_lazy_init", asked)
    assert "['--num-processes', '1']" in capfd.readouterr().out
    (checkout / "tests" / "test_layout.py").write_text("raise SystemExit(3)")
    assert not script.run("test_layout", asked)
    assert "== test_layout failed, exit status 3 after" in capfd.readouterr().out
    a_child_that_fails = "import os\nif not os.fork():\n    raise RuntimeError\nos.wait()\n"
    (checkout / "tests" / "test_lazy_init.py").write_text(a_child_that_fails)
    assert not script.run("test_lazy_init", asked)


def test_weight_gradients_are_left_out(script: ModuleType) -> None:
    kinds = {True: SimpleNamespace(is_1d1d=lambda: True), False: SimpleNamespace(is_1d1d=lambda: False)}
    generators = SimpleNamespace(
        enumerate_normal=lambda dtype: (
            (kinds[number % 3 == 0], number, number % 2 == 0, torch.bfloat16) for number in range(10)
        ),
        enumerate_m_grouped_contiguous=lambda dtype: iter(range(5)),
        enumerate_m_grouped_masked=lambda dtype: iter(range(4)),
    )
    script.narrow(generators, 2)
    # 0 and 6 are of both kinds.
    assert [problem[1] for problem in generators.enumerate_normal(None)] == [1, 3, 5, 8]
    assert list(generators.enumerate_m_grouped_contiguous(dtype=None)) == [0, 2, 4]
    assert list(generators.enumerate_m_grouped_masked(None)) == [0, 2]
