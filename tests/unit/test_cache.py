"""The disk store by itself: what it gives back, what it throws away, and where it cannot write."""

import errno
import logging
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from cute_gemm import storage
from cute_gemm.runtime import cache

KEY = '{"kernel": "a"}'
PAYLOAD = bytes(range(256)) * 40


@pytest.fixture
def store(tmp_path: Path) -> cache.KernelStore:
    return cache.KernelStore(tmp_path)


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "named"
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(directory))
    return directory


def the_file(store: cache.KernelStore) -> Path:
    (file,) = store.directory.glob("*.kernel")
    return file


def test_gives_back_what_was_stored(store: cache.KernelStore) -> None:
    assert store.load(KEY) is None
    store.store(KEY, PAYLOAD)
    assert store.load(KEY) == PAYLOAD
    store.store(KEY, b"newer")
    assert store.load(KEY) == b"newer"
    assert store.load(KEY + " ") is None


def test_leaves_one_file_that_others_cannot_change(store: cache.KernelStore) -> None:
    store.store(KEY, PAYLOAD)
    assert os.listdir(store.directory) == [the_file(store).name]
    assert stat.S_IMODE(the_file(store).stat().st_mode) & 0o022 == 0


# Positions count from the end where negative: magic, key, digest, first and last byte of the payload.
@pytest.mark.parametrize("position", [0, 45, 80, -len(PAYLOAD), -1])
def test_a_flipped_bit_is_thrown_away(
    store: cache.KernelStore, position: int, caplog: pytest.LogCaptureFixture
) -> None:
    store.store(KEY, PAYLOAD)
    content = bytearray(the_file(store).read_bytes())
    content[position] ^= 1
    the_file(store).write_bytes(content)
    assert store.load(KEY) is None
    assert not list(store.directory.iterdir())
    assert "threw away" in caplog.text


@pytest.mark.parametrize("kept", [0, 1, 60, 150, 5000, -1])
def test_a_truncated_file_is_thrown_away(store: cache.KernelStore, kept: int) -> None:
    store.store(KEY, PAYLOAD)
    the_file(store).write_bytes(the_file(store).read_bytes()[:kept])
    assert store.load(KEY) is None
    assert not list(store.directory.iterdir())


def test_a_longer_file_is_thrown_away(store: cache.KernelStore) -> None:
    store.store(KEY, PAYLOAD)
    with the_file(store).open("ab") as file:
        file.write(b"\0")
    assert store.load(KEY) is None


def test_another_kernels_file_under_this_name_is_thrown_away(store: cache.KernelStore) -> None:
    store.store(KEY, b"")
    name = the_file(store)
    name.unlink()
    store.store('{"kernel": "b"}', PAYLOAD)
    the_file(store).rename(name)
    assert store.load(KEY) is None
    assert not list(store.directory.iterdir())


def test_a_file_that_cannot_be_read_is_warned_of_and_counts_as_absent(
    store: cache.KernelStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.store(KEY, PAYLOAD)
    path = the_file(store)
    path.unlink()
    path.mkdir()
    assert store.load(KEY) is None
    assert "cannot read" in caplog.text


def test_a_full_disk_is_warned_of_once_and_leaves_nothing(
    store: cache.KernelStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    store.store(KEY, PAYLOAD)
    store.store(KEY, PAYLOAD)
    assert store.load(KEY) is None
    assert not list(store.directory.iterdir())
    assert caplog.text.count("No space left") == 1


def test_a_reader_never_sees_half_a_file(store: cache.KernelStore, caplog: pytest.LogCaptureFixture) -> None:
    seen = [store.load(KEY)]
    reader_done = threading.Event()

    def read() -> None:
        deadline = time.monotonic() + 10
        while seen.count(PAYLOAD) < 100 and time.monotonic() < deadline:
            seen.append(store.load(KEY))
        reader_done.set()

    threading.Thread(target=read).start()
    while not reader_done.is_set():
        store.store(KEY, PAYLOAD)
    assert seen.count(PAYLOAD) == 100
    assert set(seen) == {None, PAYLOAD}
    assert "threw away" not in caplog.text


def test_a_directory_that_nobody_can_write_reads_as_empty(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # In /proc not even root makes files.
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, "/proc/self")
    store = cache.open_store()
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
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, "/proc/self/none/here")
    assert cache.open_store() is None
    assert cache.open_store() is None
    assert caplog.text.count("not kept on disk in /proc/self/none/here") == 1


def test_a_directory_that_anyone_can_write_is_refused(named: Path, caplog: pytest.LogCaptureFixture) -> None:
    named.mkdir()
    named.chmod(0o1777)
    assert cache.open_store() is None
    assert "anyone may write there" in caplog.text
    assert "anyone may write there" in cache.cache_info().refusal
    named.chmod(0o770)
    assert cache.open_store() is not None
    assert cache.cache_info().refusal == ""


def test_another_users_directory_is_used_only_if_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    another = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: another)
    monkeypatch.delenv(cache.DIRECTORY_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "cute_gemm").mkdir(mode=0o700)
    owner = (tmp_path / "cute_gemm").stat().st_uid
    if owner == 0:
        # Root's directories are everybody's to read: make this one look like a plain user's.
        os.chown(tmp_path / "cute_gemm", another + 1, -1)
    assert cache.open_store() is None
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(tmp_path / "cute_gemm"))
    assert cache.open_store() is not None


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
    assert cache.open_store() is None
    assert cache.cache_info() == cache.CacheInfo(None, 0, 0, "")


def test_without_a_home_nothing_is_made_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(cache.DIRECTORY_VARIABLE, raising=False)
    monkeypatch.setattr(storage.platformdirs, "user_cache_dir", lambda name: f"~/.cache/{name}")
    assert cache.open_store() is None
    assert "no home directory" in caplog.text
    assert not list(tmp_path.iterdir())


def test_info_counts_kernels_and_creates_nothing(named: Path) -> None:
    assert cache.cache_info() == cache.CacheInfo(named, 0, 0, "")
    assert not named.exists()
    store = cache.open_store()
    assert store is not None
    assert stat.S_IMODE(named.stat().st_mode) == 0o700
    with store.exclusive(KEY):
        store.store(KEY, PAYLOAD)
    info = cache.cache_info()
    assert (info.directory, info.kernels) == (named, 1)
    assert len(PAYLOAD) < info.size < len(PAYLOAD) + 200


def test_lock_holds_others_off_and_its_time_limit_lets_them_on(
    store: cache.KernelStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    order = []

    def other(store: cache.KernelStore) -> None:
        with store.exclusive(KEY):
            order.append("other")

    with store.exclusive(KEY):
        thread = threading.Thread(target=other, args=(cache.KernelStore(store.directory),))
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]

    monkeypatch.setattr(cache, "_LOCK_SECONDS", 0.1)
    caplog.set_level(logging.INFO, logger=cache.logger.name)
    with store.exclusive(KEY):
        other(cache.KernelStore(store.directory))
    assert order[-1] == "other"
    assert len(order) == 3
    assert "going on without a lock" in caplog.text


def test_what_fails_under_the_lock_is_reported_as_it_is(store: cache.KernelStore) -> None:
    with pytest.raises(OSError, match="compiler"), store.exclusive(KEY):
        raise OSError("compiler")
    with store.exclusive(KEY):
        pass
