"""What another process has made before is found by calls that may not compile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import cute_gemm
from cute_gemm.plan.card import CARDS
from cute_gemm.runtime import builder, compiler, jit
from cute_gemm.runtime.lookup import find_kernel


@pytest.mark.thorough
def test_kernels_are_made_once_by_any_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTE_GEMM_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv(jit.VARIABLE, "never")
    card = next(iter(CARDS))
    command = [sys.executable, "-m", "cute_gemm", "warmup", "--nk", "256,512", "--max-m", "4", "--card", card]
    done = subprocess.run([*command, "--no-quantizers"], check=True, capture_output=True, text=True)
    assert "1 kernels made in " in done.stdout
    assert done.stderr == ""
    warmed = cute_gemm.warmup([(256, 512)], max_m=4, card=card, quantizers=False)
    assert (warmed.made, len(warmed.found)) == ((), 1)
    config = find_kernel(warmed.found[0])
    monkeypatch.setattr(compiler, "_loaded", {})
    assert callable(builder.instance(config))
