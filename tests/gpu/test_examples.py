"""Every example runs on a GPU: what it shows there on a CPU is tested with the unit tests."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
ARGUMENTS = {
    "01_dense_fp8_gemm.py": ["--m", "128", "--n", "256", "--k", "1040"],
    "02_moe_layer.py": ["--tokens", "128", "--hidden", "256", "--inner", "128", "--experts", "8"],
    "03_train.py": ["--steps", "20", "--hidden", "64", "--layers", "2", "--batch", "8"],
}


def test_all_examples_are_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize(("name", "arguments"), ARGUMENTS.items(), ids=ARGUMENTS)
def test_example(name: str, arguments: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert " us" in ran.stdout, "no kernel was timed"
    assert "no Hopper GPU here" not in ran.stdout
