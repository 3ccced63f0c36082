"""What tests of the cache share: odd files, a store in a directory, and who plays a stranger."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cute_gemm.runtime import cache
from cute_gemm.runtime.trust import open_directory

SOMEBODY, OTHER = 54321, 54322
"""Users whom nobody knows."""

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


def own_store_is_open() -> bool:
    with cache.opened() as kernels:
        return kernels.own is not None


def the_file(store: cache.KernelStore) -> Path:
    (file,) = store.directory.glob("*.kernel")
    return file


def the_file_of(store: cache.KernelStore, key: str) -> Path:
    return store.directory / cache._name(key)


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


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)
