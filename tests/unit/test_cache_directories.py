"""Which directories of kernels are used: one's own, and one that is only read; else there is one warning."""

import os
import shlex
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cache_places import KEY, PAYLOAD, SOMEBODY, needs_root, opened, own_store_is_open

from cute_gemm.runtime import cache


def test_a_directory_that_nobody_can_write_reads_as_empty(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # In /proc not even root makes files.
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, "/proc/self")
    with cache.opened() as kernels:
        store = kernels.own
        assert store is not None
        assert store.load(KEY) is None
        started = time.monotonic()
        with store.exclusive(KEY):
            pass
        assert time.monotonic() - started < 1
        store.store(KEY, PAYLOAD)
        store.store(KEY, PAYLOAD)
    assert caplog.text.count("cannot keep compiled kernels in /proc/self") == 1


def test_a_directory_that_cannot_be_made_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, "/proc/none/here")
    assert not own_store_is_open()
    assert not own_store_is_open()
    (record,) = caplog.records
    assert record.getMessage() == (
        "kernels on disk are not used: No such file or directory: /proc/none; "
        "or set CUTE_GEMM_CACHE_DIR to another directory, or to nothing"
    )


@pytest.mark.parametrize(("mode", "who"), [(0o1777, "anyone"), (0o777, "anyone"), (0o775, "its group")])
def test_a_directory_that_others_may_write_is_refused_with_the_way_out(
    named: Path, mode: int, who: str, caplog: pytest.LogCaptureFixture
) -> None:
    named.mkdir()
    named.chmod(mode)
    assert not own_store_is_open()
    refusal = f"{who} may write to {named}; mend it by: chmod go-w '{named}'"
    way_out = "or set CUTE_GEMM_CACHE_DIR to another directory, or to nothing"
    assert caplog.messages == [f"kernels on disk are not used: {refusal}; {way_out}"]
    assert cache.cache_info().refusal == refusal
    assert subprocess.run(shlex.split(refusal.split("by: ")[1]), check=False).returncode == 0
    assert own_store_is_open()
    assert cache.cache_info().refusal == ""


@needs_root
def test_another_users_directory_is_refused_though_it_is_named(
    named: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As root is given the cache of the user who started a container."""
    named.mkdir(mode=0o700)
    os.chown(named, SOMEBODY, -1)
    for _ in range(2):
        assert not own_store_is_open()
    assert caplog.messages == [
        f"kernels on disk are not used: {named} belongs to user {SOMEBODY}, not to root, who runs this; "
        "or set CUTE_GEMM_CACHE_DIR to another directory, or to nothing"
    ]


def test_directory_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(cache.DIRECTORY_VARIABLE, raising=False)
    assert cache.cache_dir() == tmp_path / "cute_gemm"
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, "~/elsewhere")
    assert cache.cache_dir() == Path.home() / "elsewhere"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, "here")
    assert cache.cache_dir() == tmp_path / "here"
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, "")
    assert cache.cache_dir() is None
    assert not own_store_is_open()
    assert cache.cache_info() == cache.CacheInfo(None)


def test_without_a_home_nothing_is_made_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(cache.DIRECTORY_VARIABLE, raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: f"~/.cache/{name}")
    assert not own_store_is_open()
    assert "no home directory" in caplog.text
    assert not list(tmp_path.iterdir())


NOWHERE = """
import os, sys
import platformdirs  # while it can be read
from cute_gemm.runtime import cache
os.chdir(sys.argv[1])
os.rmdir(sys.argv[1])
os.setuid(int(sys.argv[2]))
for _ in range(2):
    with cache.opened() as kernels:
        print(kernels.own)
print(cache.cache_info())
"""


@needs_root
@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"HOME": None}, "no home directory"),
        pytest.param({"HOME": ""}, "no home directory", marks=pytest.mark.thorough),
        pytest.param(
            {"HOME": None, cache.DIRECTORY_VARIABLE: "~nosuchuser/x"},
            "'~nosuchuser/x'",
            marks=pytest.mark.thorough,
        ),
        ({"HOME": None, cache.DIRECTORY_VARIABLE: "relative"}, "'relative'"),
    ],
    ids=["unset", "empty", "a user whom nobody knows", "a directory that is gone"],
)
def test_a_user_whom_nobody_knows_gets_one_warning(
    environment: dict[str, str | None], why: str, tmp_path: Path
) -> None:
    """As in a container with any user's number, whose current directory may be gone."""
    gone = tmp_path / "gone"
    gone.mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "CUTE_GEMM"))}
    changed = {key: value for key, value in (kept | environment).items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-c", NOWHERE, str(gone), str(SOMEBODY)],
        env=changed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("None\nNone\nCacheInfo(directory=")
    (line,) = done.stderr.splitlines()
    assert line.startswith("kernels on disk are not used: ")
    assert why in line


def test_info_counts_kernels_and_creates_nothing(named: Path) -> None:
    assert cache.cache_info() == cache.CacheInfo(named)
    assert not named.exists()
    with cache.opened() as kernels:
        store = kernels.own
        assert store is not None
        assert stat.S_IMODE(named.stat().st_mode) == 0o700
        with store.exclusive(KEY):
            store.store(KEY, PAYLOAD)
    info = cache.cache_info()
    assert (info.directory, info.kernels) == (named, 1)
    assert len(PAYLOAD) < info.size < len(PAYLOAD) + 200


# Kernels that are only read


def test_shared_kernels_are_found_behind_ones_own(
    named: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv(cache.SHARED_VARIABLE, str(shared))
    with opened(shared) as store:
        store.store("both", b"shared", 0o644)
        store.store("shared", b"shared", 0o644)
    shared.chmod(0o555)
    with cache.opened() as kernels:
        assert kernels.own is not None
        kernels.own.store("both", b"own")
        found = [kernels.load(key) for key in ("both", "shared", "none")]
    assert [each and (each[0], each[1].directory) for each in found] == [
        (b"own", named),
        (b"shared", shared),
        None,
    ]
    assert cache.shared_cache_info().kernels == 2
    assert cache.cache_info().kernels == 1


def test_a_shared_directory_is_judged_too_and_never_made(
    named: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared = tmp_path / "shared"
    monkeypatch.setenv(cache.SHARED_VARIABLE, str(shared))
    with cache.opened() as kernels:
        assert (kernels.own is None, kernels.shared) == (False, None)
    assert not shared.exists()
    assert f"No such file or directory: {shared}; or set CUTE_GEMM_SHARED_CACHE_DIR" in caplog.text
    shared.mkdir()
    shared.chmod(0o777)
    with cache.opened() as kernels:
        assert kernels.shared is None
    assert f"anyone may write to {shared}" in caplog.text


def test_info_says_why_a_directory_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(cache.SHARED_VARIABLE, str(tmp_path / "none"))
    assert cache.shared_cache_info().refusal == f"No such file or directory: {tmp_path / 'none'}"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(tmp_path / "a" / "b"))
    assert cache.cache_info().refusal == f"it is not there, and nothing can be made in {tmp_path}"
