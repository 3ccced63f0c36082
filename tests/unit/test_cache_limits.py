"""What is left behind in a cache is counted, and removed; other people's files are not."""

import errno
import os
import time
from pathlib import Path

import pytest
from cache_places import KEY, PAYLOAD, a_sparse_file, age, opened, the_file, the_file_of

from cute_gemm import storage
from cute_gemm.runtime import cache, cache_limits


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
