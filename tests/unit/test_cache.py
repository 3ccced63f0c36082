"""The disk store by itself: what it gives back, what it throws away, and where it cannot write."""

import errno
import fcntl
import logging
import os
import shlex
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cute_gemm import storage
from cute_gemm.runtime import cache, cache_limits
from cute_gemm.runtime.trust import open_directory

SOMEBODY = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of other users")

KEY = '{"kernel": "a"}'
PAYLOAD = bytes(range(256)) * 40


@contextmanager
def opened(directory: Path) -> Iterator[cache.KernelStore]:
    descriptor = open_directory(directory)
    try:
        yield cache.KernelStore(directory, descriptor)
    finally:
        os.close(descriptor)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[cache.KernelStore]:
    with opened(tmp_path) as store:
        yield store


def own_store_is_open() -> bool:
    with cache.opened() as kernels:
        return kernels.own is not None


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "na med"
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


def the_file_of(store: cache.KernelStore, key: str) -> Path:
    return store.directory / cache._name(key)


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


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(64 * 2**30)


def a_link(path: Path) -> None:
    """To an entry that is right, and elsewhere."""
    with opened(path.parent) as store:
        store.store(KEY, PAYLOAD)
    path.rename(path.parent / "elsewhere")
    path.symlink_to("elsewhere")


ODD = {"a folder": a_folder, "a pipe": a_pipe, "64 GiB of nothing": a_sparse_file, "a link": a_link}


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
    monkeypatch.setattr(storage.platformdirs, "user_cache_dir", lambda name: f"~/.cache/{name}")
    assert not own_store_is_open()
    assert "no home directory" in caplog.text
    assert not list(tmp_path.iterdir())


NOWHERE = """
import os, sys
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
        ({"HOME": ""}, "no home directory"),
        ({"HOME": None, cache.DIRECTORY_VARIABLE: "~nosuchuser/x"}, "'~nosuchuser/x'"),
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


# What is left behind


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_files_of_killed_writers_are_counted_and_removed(named: Path) -> None:
    with cache.opened() as kernels:
        store = kernels.own
        assert store is not None
        store.store(KEY, PAYLOAD)
        for number in range(5):
            path = named / f".{number:064x}.kernel.{number:016x}.tmp"
            path.write_bytes(PAYLOAD)
            age(path, 0 if number == 0 else storage.TEMPORARY_SECONDS + 10)
        info = cache.cache_info()
        assert (info.kernels, info.leftovers) == (1, 5)
        assert info.size > 6 * len(PAYLOAD)
        store.prune()
        assert cache.cache_info().leftovers == 1


def test_kernels_that_nobody_uses_are_removed_with_their_locks(store: cache.KernelStore) -> None:
    for key in ("old", "used", "new"):
        with store.exclusive(key):
            store.store(key, PAYLOAD)
    for path in store.directory.iterdir():
        age(path, cache_limits.UNUSED_SECONDS - 10)
    assert store.load("used") == PAYLOAD
    for path in store.directory.iterdir():
        if path.stat().st_mtime < time.time() - 3600:
            age(path, cache_limits.UNUSED_SECONDS + 10)
    store.store("newest", PAYLOAD)
    store.prune()
    assert [store.load(key) for key in ("old", "used", "new", "newest")] == [None, PAYLOAD, None, PAYLOAD]
    assert len(list(store.directory.glob("*.lock"))) == 1


def test_the_oldest_are_removed_until_the_rest_is_small_enough(
    store: cache.KernelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = list("abcdef")
    for number, key in enumerate(keys):
        store.store(key, PAYLOAD)
        for path in store.directory.iterdir():
            age(path, 100 - number + time.time() - path.stat().st_mtime)
    monkeypatch.setattr(cache_limits, "MOST_BYTES", 4 * len(PAYLOAD))
    store.store("g", PAYLOAD)
    store.prune()
    held = [key for key in [*keys, "g"] if store.load(key) is not None]
    assert held == list("efg")


def test_temporary_files_count_as_much_as_kernels(
    store: cache.KernelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = store.directory / f".{0:064x}.kernel.{0:016x}.tmp"
    left.write_bytes(PAYLOAD)
    age(left, 60)
    store.store(KEY, PAYLOAD)
    monkeypatch.setattr(cache_limits, "MOST_BYTES", len(PAYLOAD) * 3 // 2)
    store.prune()
    assert not left.exists()
    assert store.load(KEY) == PAYLOAD


def test_what_a_wrong_clock_dates_from_the_future_goes_first(store: cache.KernelStore) -> None:
    left = store.directory / f".{0:064x}.kernel.{0:016x}.tmp"
    left.touch()
    age(left, -86400)
    store.store(KEY, PAYLOAD)
    age(the_file(store), -60)
    store.prune()
    assert os.listdir(store.directory) == [the_file(store).name]


def test_a_sparse_file_counts_as_what_is_there(
    store: cache.KernelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_sparse_file(store.directory / f"{0:064x}.kernel")
    store.store(KEY, PAYLOAD)
    monkeypatch.setattr(cache_limits, "MOST_BYTES", 2 * len(PAYLOAD))
    age(the_file_of(store, KEY), 60)
    store.prune()
    assert store.load(KEY) == PAYLOAD


def test_a_lock_goes_when_it_is_old_and_its_kernel_is_gone(store: cache.KernelStore) -> None:
    for key in ("young", "old", "used"):
        with store.exclusive(key):
            if key == "used":
                store.store(key, PAYLOAD)
    locks = {key: the_file_of(store, key).with_suffix(".lock") for key in ("young", "old", "used")}
    age(locks["old"], 2 * 86400)
    age(locks["used"], 2 * 86400)
    store.prune()
    assert [locks[key].exists() for key in ("young", "old", "used")] == [True, False, True]


def test_other_peoples_files_are_neither_counted_nor_removed(store: cache.KernelStore) -> None:
    """Whoever names the directory of a project had better keep it."""
    names = (
        "uv.lock",
        "Cargo.lock",
        "blur.kernel",
        ".download.tmp",
        f"{0:063x}.kernel",
        f"{0:064x}.kernel.bak",
    )
    for name in names:
        (store.directory / name).touch()
        age(store.directory / name, 400 * 86400)
    store.prune()
    assert set(os.listdir(store.directory)) == set(names)
    with opened(store.directory) as again:
        assert list(again.entries()) == []


def test_a_use_is_noted_once_a_day(store: cache.KernelStore) -> None:
    store.store(KEY, PAYLOAD)
    for seconds, is_noted in ((3600, False), (2 * 86400, True)):
        age(the_file(store), seconds)
        store.load(KEY)
        assert (time.time() - the_file(store).stat().st_mtime < 60) is is_noted


def test_what_cannot_be_removed_stops_nothing(
    store: cache.KernelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(cache_limits, "MOST_BYTES", 0)
    monkeypatch.setattr(os, "unlink", refuses)
    store.store(KEY, PAYLOAD)
    store.prune()
    assert store.load(KEY) == PAYLOAD


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


def test_what_many_threads_say_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    threads = [threading.Thread(target=cache._warn_once, args=("the same",)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert caplog.text.count("the same") == 1
