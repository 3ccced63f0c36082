"""What runs others' tests: it skips where there is nothing to run, and leaves out what it says."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

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


def test_each_nth_problem_is_run(script: ModuleType) -> None:
    counts = {name: 5 + index for index, name in enumerate(script.ENUMERATIONS)}
    generators = SimpleNamespace(
        **{name: lambda dtype, count=count: iter(range(count)) for name, count in counts.items()}
    )
    script.narrow(generators, 2)
    for name, count in counts.items():
        assert list(getattr(generators, name)(dtype=None)) == list(range(0, count, 2))


def test_all_tests_of_fp8_are_run(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = [f"enumerate_{each}" for each in ("normal", "m_grouped_contiguous", "m_grouped_masked")]
    generators = "".join(
        f"def {name}(dtype): return iter(range(3))\n" for name in [*names, "enumerate_k_grouped_contiguous"]
    )
    (tmp_path / "generators.py").write_text(generators)
    tests = ("gemm", "m_grouped_gemm_contiguous", "m_grouped_gemm_masked", "k_grouped_gemm_contiguous")
    (tmp_path / "test_fp8_fp4.py").write_text(
        "ran = []\n" + "".join(f"def test_{name}(): ran.append('{name}')\n" for name in tests)
    )
    (tmp_path / "deep_gemm.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("generators", "test_fp8_fp4", "deep_gemm"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    try:
        script.drive(2)
        assert sys.modules["test_fp8_fp4"].ran == list(tests)
        assert list(sys.modules["generators"].enumerate_normal(None)) == [0, 2]
    finally:
        for name in ("generators", "test_fp8_fp4", "deep_gemm"):
            sys.modules.pop(name, None)
