"""Kernels that an administrator copies for all: others can read them, and nobody else can write there."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_places import SOMEBODY, needs_root

from cute_gemm.cli import main
from cute_gemm.runtime import cache
from cute_gemm.runtime.sharing import Shared, share

KEYS = '{"kernel": "a"}', '{"kernel": "b"}', "an older version's"


@pytest.fixture
def place() -> Iterator[Path]:
    """Where any user may enter, as not above pytest's own directories."""
    with tempfile.TemporaryDirectory(prefix="cute_gemm-test-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with three kernels, and what is no kernel."""
    directory = tmp_path / "own"
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(directory))
    with cache.opened() as kernels:
        assert kernels.own is not None
        for key in (*KEYS, "anybody's"):
            kernels.own.store(key, key.encode() * 100)
    (directory / cache._name("anybody's")).chmod(0o666)
    (directory / f"{'0' * 64}.kernel").write_bytes(b"damaged")
    (directory / f"{'1' * 64}.kernel").write_bytes(next(directory.glob("*.kernel")).read_bytes())
    return directory


def test_kernels_are_copied_once_for_all_to_read(own: Path, place: Path) -> None:
    target = place / "shared"
    old = os.umask(0o077)
    try:
        assert share(target) == Shared(3, 0)
    finally:
        os.umask(old)
    assert share(target) == Shared(0, 3)
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert [stat.S_IMODE(path.stat().st_mode) for path in target.iterdir()] == [0o644] * 3


def test_a_kernel_that_is_damaged_or_hidden_there_is_copied_again(own: Path, place: Path) -> None:
    share(place / "shared")
    damaged, hidden, _ = (place / "shared").iterdir()
    damaged.write_bytes(b"")
    hidden.chmod(0o600)
    assert share(place / "shared") == Shared(2, 1)
    assert share(place / "shared") == Shared(0, 3)


def test_what_cannot_be_written_is_an_error(own: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache.KernelStore, "store", lambda *arguments: None)
    with pytest.raises(OSError, match="cannot be written"):
        share(place / "shared")


def test_what_was_there_keeps_its_mode(own: Path, place: Path) -> None:
    """Nobody wants a directory of theirs opened to all."""
    (place / "secret").mkdir(mode=0o700)
    with pytest.raises(PermissionError, match=r"other users may not read there: chmod o\+rx"):
        share(place / "secret")
    assert stat.S_IMODE((place / "secret").stat().st_mode) == 0o700
    assert not list((place / "secret").iterdir())
    with pytest.raises(OSError, match="is the disk cache itself"):
        share(own)


def test_nothing_to_share_is_an_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "own").mkdir(mode=0o700)
    for name in ("[" * 5000, "{}", "1", ""):
        (place / "own" / f"{len(name):064x}.kernel").write_text(f"x\n{name}\nx\n")
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(place / "own"))
    with pytest.raises(OSError, match="has no kernels to copy"):
        share(place / "shared")
    assert not (place / "shared").exists()


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


@pytest.mark.thorough
@needs_root
def test_another_user_takes_them(own: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = place / "shared"
    share(shared)
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, "")
    monkeypatch.setenv(cache.SHARED_VARIABLE, str(shared))
    command = [sys.executable, "-c", READ, str(SOMEBODY), *KEYS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [str(shared)] * 3, done.stderr
    assert done.stderr == ""
    # Not root's any more.
    os.chown(shared, SOMEBODY + 1, -1)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"{shared} belongs to user {SOMEBODY + 1}" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("directory", "why"),
    [
        ("file", "Not a directory"),
        ("open", "anyone may write"),
        ("open/below", "anyone may rename"),
        ("secret/shared", "other users may not read there"),
    ],
)
def test_what_cannot_be_shared_is_one_line(
    own: Path, place: Path, directory: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "file").touch()
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    (place / "secret").mkdir(mode=0o700)
    assert main(["share", str(place / directory)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cute-gemm: ")
    assert why in line
    assert stat.S_IMODE((place / "open").stat().st_mode) == 0o777


def test_the_command_says_how_they_are_used(
    own: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    assert main(["share", "shared"]) == 0
    out = capsys.readouterr().out
    assert f"copied 3 kernels to {place / 'shared'}" in out
    assert f"CUTE_GEMM_SHARED_CACHE_DIR={place / 'shared'}" in out
    for nothing in ("", ".", "/"):
        assert main(["share", nothing]) == 1
    assert "names no directory of its own" in capsys.readouterr().err
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, "")
    assert main(["share", "shared"]) == 1
    assert "no disk cache to copy from" in capsys.readouterr().err
