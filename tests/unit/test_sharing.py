"""Kernels that an administrator copies for all: others can read them, and nobody else can write there."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cute_gemm.cli import main
from cute_gemm.runtime import cache
from cute_gemm.runtime.sharing import Shared, share

KEYS = '{"kernel": "a"}', '{"kernel": "b"}', "an older version's"
SOMEBODY = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's directories are believed by others")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with three kernels, and what is no kernel."""
    directory = tmp_path / "own"
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(directory))
    with cache.opened() as kernels:
        assert kernels.own is not None
        for key in KEYS:
            kernels.own.store(key, key.encode() * 100)
    (directory / f"{'0' * 64}.kernel").write_bytes(b"damaged")
    (directory / f"{'1' * 64}.kernel").write_bytes(next(directory.glob("*.kernel")).read_bytes())
    return directory


def test_kernels_are_copied_once_for_all_to_read(own: Path, tmp_path: Path) -> None:
    target = tmp_path / "shared"
    old = os.umask(0o077)
    try:
        assert share(target) == Shared(3, 0)
    finally:
        os.umask(old)
    assert share(target) == Shared(0, 3)
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert [stat.S_IMODE(path.stat().st_mode) for path in target.iterdir()] == [0o644] * 3


def test_a_kernel_that_is_damaged_there_is_copied_again(own: Path, tmp_path: Path) -> None:
    share(tmp_path / "shared")
    next((tmp_path / "shared").iterdir()).write_bytes(b"")
    assert share(tmp_path / "shared") == Shared(1, 2)


READ = """
import os, sys
from cute_gemm.runtime import cache
os.setuid(int(sys.argv[1]))
with cache.opened() as kernels:
    for key in sys.argv[2:]:
        payload, store = kernels.load(key)
        assert payload == key.encode() * 100
        print(store.directory)
"""


@needs_root
def test_another_user_takes_them_and_keeps_ones_own(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is above pytest's own directories, only their user may enter.
    outside = Path(f"/tmp/cute_gemm-test-{os.getpid()}")
    try:
        share(outside)
        monkeypatch.setenv(cache.DIRECTORY_VARIABLE, "")
        monkeypatch.setenv(cache.SHARED_VARIABLE, str(outside))
        command = [sys.executable, "-c", READ, str(SOMEBODY), *KEYS]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout.splitlines() == [str(outside)] * 3, done.stderr
        assert done.stderr == ""
        # Not root's any more.
        os.chown(outside, SOMEBODY + 1, -1)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert f"{outside} belongs to user {SOMEBODY + 1}" in done.stderr
        assert done.stdout == ""
    finally:
        for path in outside.iterdir():
            path.unlink()
        outside.rmdir()


@pytest.mark.parametrize(
    ("directory", "why"),
    [
        ("none/shared", "No such file or directory"),
        ("file", "Not a directory"),
        ("open", "anyone may write"),
        ("open/below", "anyone may rename"),
    ],
)
def test_what_cannot_be_shared_is_one_line(
    own: Path, tmp_path: Path, directory: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert main(["share", str(tmp_path / directory)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cute-gemm: ")
    assert why in line
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o777


def test_the_command_says_how_they_are_used(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["share", "shared"]) == 0
    out = capsys.readouterr().out
    assert f"copied 3 kernels to {tmp_path / 'shared'}" in out
    assert f"CUTE_GEMM_SHARED_CACHE_DIR={tmp_path / 'shared'}" in out
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, "")
    assert main(["share", "shared"]) == 1
    assert "no disk cache to copy from" in capsys.readouterr().err
