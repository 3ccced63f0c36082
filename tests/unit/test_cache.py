"""Kernels on disk by themselves: what is given back, what is thrown away, and what cannot be written."""

import errno
import os
import stat
import threading
import time
from typing import Any

import pytest
from cache_places import KEY, ODD, PAYLOAD, SOMEBODY, needs_root, the_file

from cute_gemm.runtime import cache


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


@pytest.mark.parametrize("case", ODD)
def test_what_is_no_file_is_warned_of_and_counts_as_absent(
    store: cache.KernelStore, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.store(KEY, PAYLOAD)
    path = the_file(store)
    path.unlink()
    ODD[case](path)
    started = time.monotonic()
    for _ in range(2):
        assert store.load(KEY) is None
    assert caplog.text.count(f"did not use {path}") == 1
    store.store(KEY, PAYLOAD)
    assert store.load(KEY) == (None if case == "a folder" else PAYLOAD)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602])
def test_a_kernel_that_others_could_write_is_thrown_away(
    store: cache.KernelStore, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    store.store(KEY, PAYLOAD)
    the_file(store).chmod(mode)
    assert store.load(KEY) is None
    assert "may write to" in caplog.text
    assert not list(store.directory.iterdir())


def test_what_was_read_is_judged_and_not_what_has_its_name_now(
    store: cache.KernelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is that removed: another process has just put it there."""
    store.store(KEY, PAYLOAD)
    the_file(store).chmod(0o666)
    real = cache.read_regular

    def swaps(*arguments: Any) -> Any:
        found = real(*arguments)
        store.store(KEY, b"good")
        return found

    monkeypatch.setattr(cache, "read_regular", swaps)
    assert store.load(KEY) is None
    monkeypatch.undo()
    assert store.load(KEY) == b"good"


def test_where_it_cannot_be_removed_nothing_is_said_to_be(
    store: cache.KernelStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.store(KEY, PAYLOAD)
    the_file(store).chmod(0o666)

    def refuses(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(os, "unlink", refuses)
    for _ in range(2):
        assert store.load(KEY) is None
    assert caplog.text.count("did not use a stored kernel") == 1
    assert "threw away" not in caplog.text


@needs_root
def test_a_kernel_of_another_user_is_thrown_away(
    store: cache.KernelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Left from a time when they could write to the directory."""
    store.store(KEY, PAYLOAD)
    os.chown(the_file(store), SOMEBODY, -1)
    assert store.load(KEY) is None
    assert f"belongs to user {SOMEBODY}, not to root, who runs this" in caplog.text
    assert not list(store.directory.iterdir())


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


def test_what_many_threads_say_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    threads = [threading.Thread(target=cache._warn_once, args=("the same",)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert caplog.text.count("the same") == 1
