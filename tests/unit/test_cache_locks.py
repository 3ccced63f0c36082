"""Processes that want the same kernel wait for each other, where there are locks, and not for ever."""

import errno
import fcntl
import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cache_places import KEY, PAYLOAD, a_folder, a_pipe, opened, the_file

from cute_gemm import storage
from cute_gemm.runtime import cache


def test_lock_holds_others_off_and_its_time_limit_lets_them_on(
    store: cache.KernelStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    order = []

    def other(directory: Path) -> None:
        with opened(directory) as store, store.exclusive(KEY):
            order.append("other")

    with store.exclusive(KEY):
        thread = threading.Thread(target=other, args=(store.directory,))
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]

    monkeypatch.setattr(cache, "_LOCK_SECONDS", 0.1)
    caplog.set_level(logging.INFO, logger=cache.logger.name)
    with store.exclusive(KEY):
        other(store.directory)
    assert order[-1] == "other"
    assert len(order) == 3
    assert "going on without a lock" in caplog.text


def test_what_fails_under_the_lock_is_reported_as_it_is(store: cache.KernelStore) -> None:
    with pytest.raises(OSError, match="compiler"), store.exclusive(KEY):
        raise OSError("compiler")
    with store.exclusive(KEY):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES])
def test_where_there_are_no_locks_nobody_waits(
    store: cache.KernelStore, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def has_none(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storage.fcntl, "flock", has_none)
    caplog.set_level(logging.INFO, logger=cache.logger.name)
    started = time.monotonic()
    with store.exclusive(KEY):
        store.store(KEY, PAYLOAD)
    assert time.monotonic() - started < 1
    assert store.load(KEY) == PAYLOAD
    assert f"going on without a lock: {os.strerror(number)}" in caplog.text


def test_a_lock_that_others_can_open_is_replaced(store: cache.KernelStore) -> None:
    """They could hold it for ever."""
    with store.exclusive(KEY):
        pass
    (lock,) = store.directory.glob("*.lock")
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    lock.chmod(0o644)
    with lock.open() as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        started = time.monotonic()
        with store.exclusive(KEY):
            pass
        assert time.monotonic() - started < 1
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600


def test_a_child_that_was_forked_under_a_lock_does_not_hold_it(store: cache.KernelStore) -> None:
    read, write = os.pipe()
    with store.exclusive(KEY):
        child = os.fork()
        if not child:
            os.read(read, 1)
            os._exit(0)
    started = time.monotonic()
    with store.exclusive(KEY):
        pass
    os.write(write, b"x")
    os.waitpid(child, 0)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("make", [a_pipe, a_folder, lambda path: path.symlink_to("target")])
def test_a_lock_that_is_no_file_is_not_followed(
    store: cache.KernelStore, make: Callable[[Path], None]
) -> None:
    with store.exclusive(KEY):
        pass
    (lock,) = store.directory.glob("*.lock")
    lock.unlink()
    make(lock)
    started = time.monotonic()
    with store.exclusive(KEY):
        store.store(KEY, PAYLOAD)
    assert time.monotonic() - started < 1
    assert {path.name for path in store.directory.iterdir()} == {lock.name, the_file(store).name}
