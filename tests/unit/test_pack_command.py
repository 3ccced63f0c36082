"""`cute-gemm pack`: what it refuses. tests/compile/test_packs.py has what it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cute_gemm.cli import main
from cute_gemm.runtime import cache, compiler
from cute_gemm.warming import kernels, work

QUANTIZER = "--kernel", "quantize_1x128_bf16_x2"


@pytest.fixture(autouse=True)
def nothing_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is on disk, it seems, and each kernel that is loaded is noted."""
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(work, "sort", lambda needed: ([], list(needed)))
    monkeypatch.setattr(kernels, "load", note(b"\x7fELF".ljust(16, b"\0") + b"\x03\0"))


def note(image: bytes) -> Callable[[Any], None]:
    def load(kernel: Any) -> None:
        assert compiler._noted is not None
        compiler._noted[kernel.name] = compiler.Noted(kernel.name, image)

    return load


def test_it_says_what_it_wrote_and_how_it_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", str(tmp_path / "pack"), *QUANTIZER]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"1 kernels, 0.0 MiB: {tmp_path / 'pack'}" in said
    assert f"CUTE_GEMM_PACKS={tmp_path / 'pack'}" in said
    assert len(list((tmp_path / "pack").iterdir())) == 2


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["pack", *arguments]) == 1
    return " ".join(capsys.readouterr().err.split())


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "note").touch()
    assert "is neither empty nor a pack" in refused(capsys, str(tmp_path), *QUANTIZER)
    assert "names no folder of its own" in refused(capsys, "/", *QUANTIZER)
    assert "Not a directory" in refused(capsys, str(tmp_path / "note"), *QUANTIZER)


def test_without_kernels_there_is_no_pack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "want --model, --nk or --kernel" in refused(capsys, str(tmp_path / "pack"))
    assert not (tmp_path / "pack").exists()


def test_objects_are_no_pack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "load", note(b"\x7fELF".ljust(16, b"\0") + b"\x01\0"))
    assert "there are no packs" in refused(capsys, str(tmp_path / "pack"), *QUANTIZER)


def test_kernels_that_changed_meanwhile_are_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "load", lambda kernel: None)
    assert "changed while they were compiled" in refused(capsys, str(tmp_path / "pack"), *QUANTIZER)
