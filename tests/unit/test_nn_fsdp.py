"""Layers whose parameters FSDP2 shards over two processes, on the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch import distributed


@pytest.mark.thorough
@pytest.mark.skipif(not distributed.is_gloo_available(), reason="processes meet by Gloo")
def test_a_sharded_model_trains_as_one_that_is_not(tmp_path: Path) -> None:
    program = Path(__file__).with_name("fsdp_training.py")
    done = subprocess.run(
        [sys.executable, program, tmp_path / "meeting"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "trained"
    assert "returned a view" not in done.stderr
