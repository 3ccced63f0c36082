"""Every example runs as a user would run it, on the CPU, with small shapes."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, *arguments):
    """Standard output of an example."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def figures(out, label):
    """Numbers at the ends of the lines that hold `label`."""
    lines = [line.removesuffix(" error").removesuffix("%") for line in out.splitlines() if label in line]
    return [float(line.split()[-1]) for line in lines]


def test_01_dense_fp8_gemm():
    out = run("01_dense_fp8_gemm.py", "--m", "128", "--n", "256", "--k", "1040")
    # The text says what each of these figures shows; they had better show it.
    one_scale, fine = figures(out, "beside one value")
    assert one_scale > 50
    assert fine < 4
    (kept,), (promoted,) = figures(out, "kept in the tensor core"), figures(out, "promoted to FP32")
    assert promoted < kept / 2
    (own,), (total,) = figures(out, "of the quantised operands"), figures(out, "before quantisation")
    assert own < 3e-6
    assert 4e-4 < total < 1e-3
    assert "no Hopper GPU here" in out
