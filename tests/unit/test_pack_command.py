"""`cute-gemm pack`: what it refuses. tests/compile/test_packs.py has what it writes."""

from __future__ import annotations

import platform
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cute_gemm.cli import main
from cute_gemm.runtime import cache, compiler, linked
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
    def load(kernel: Any) -> None:
        assert compiler._noted is not None
        compiler._noted.objections[kernel.name] = "mine.py changed since it was read"

    monkeypatch.setattr(kernels, "load", load)
    said = refused(capsys, str(tmp_path / "pack"), *QUANTIZER)
    assert f"{QUANTIZER[1]} is not to be kept for other processes: mine.py changed" in said
    assert not (tmp_path / "pack").exists()


FILE = """
from cute_gemm.plan.config import KernelConfig
from cute_gemm.runtime.builder import Program

made = KernelConfig(64, 64, 4)

def kernel():
    pass

def one():
    return Program(made, kernel, ())

two = one
again = one()
"""


def test_two_names_of_one_kernel_are_packed_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a program that this process has had before."""
    monkeypatch.undo()
    monkeypatch.setattr(compiler, "_compile", lambda build, label: b"\x7fELF".ljust(16, b"\0") + b"\x03\0")
    monkeypatch.setattr(compiler, "_surroundings", lambda: {})
    monkeypatch.setattr(linked, "load", lambda image, function: print)
    monkeypatch.setattr(work, "make", lambda missing, jobs: map(kernels.load, missing))
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(tmp_path / "cache"))
    file = tmp_path / "file.py"
    file.write_text(FILE)
    names = [f"{file}:{name}" for name in ("one", "two", "again")]
    for _ in range(2):
        assert main(["pack", str(tmp_path / "pack"), "--kernel", *names]) == 0
        assert "1 kernels, 0.0 MiB" in " ".join(capsys.readouterr().out.split())


def test_a_wheel_is_put_into_a_folder_beside_other_things(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "note").touch()
    assert main(["pack", str(tmp_path), "--wheel", "Acme_Kernels==1.0.post2", *QUANTIZER]) == 0
    wheel = tmp_path / f"acme_kernels-1.0.post2-py3-none-linux_{platform.machine()}.whl"
    said = " ".join(capsys.readouterr().out.split())
    assert f"1 kernels, 0.0 MiB: {wheel}" in said
    assert f"pip install {wheel}" in said
    assert zipfile.is_zipfile(wheel)


@pytest.mark.parametrize(
    "name", ["two words", "==1.0", "kernels==new", "kernels==", "", "../kernels", "Cute_GEMM"]
)
def test_what_pip_would_not_take_as_a_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    said = refused(capsys, str(tmp_path / "dist"), "--wheel", name, *QUANTIZER)
    assert "a wheel cannot be called" in said or "another version of this package" in said
    assert not (tmp_path / "dist").exists()
