"""Fills the directory of compiled kernels that other users only read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ..storage import DIRECTORY_VARIABLE, cache_dir
from .cache import KernelStore
from .trust import open_directory

_FOR_ALL = 0o755
_CURE = "calls of operations as this user, `cute-gemm bench` or `cute-gemm tune` fill the cache"


class Shared(NamedTuple):
    """What came of sharing.

    Attributes:
        copied: kernels that were copied.
        there: kernels that the directory had already.
    """

    copied: int
    there: int


def share(directory: Path) -> Shared:
    """Copies the kernels of the disk cache to a directory that everybody may read and this user may write.

    Other users' processes believe it only if it is root's (docs/trust.md).

    Args:
        directory: an absolute path; made if it was not there, for all to read.

    Raises:
        OSError: it cannot be written, others may write there, or others cannot read there; or there is no
            disk cache to copy from, or nothing in it.
    """
    cached = cache_dir()
    if cached is None:
        raise OSError(f"there is no disk cache to copy from: {DIRECTORY_VARIABLE} is empty")
    if not cached.is_dir():
        raise OSError(f"{cached} is not there: {_CURE}")
    with _opened(cached) as own:
        entries = dict(own.entries())
        if not entries:
            raise OSError(f"{cached} has no kernels to copy: {_CURE}")
        if directory.is_dir() and directory.samefile(cached):
            raise OSError(f"{directory} is the disk cache itself")
        _require_open(directory.parents, 0o001, "o+x")
        _make(directory)
        with _opened(directory) as shared:
            _require_open([directory], 0o005, "o+rx")
            return _copy(entries, shared)


@contextmanager
def _opened(directory: Path) -> Iterator[KernelStore]:
    descriptor = open_directory(directory)
    try:
        yield KernelStore(directory, descriptor)
    finally:
        os.close(descriptor)


def _make(directory: Path) -> None:
    """Makes it for all to read, whatever the umask is; leaves one that is there as it is."""
    try:
        os.close(open_directory(directory))
    except FileNotFoundError:
        descriptor = open_directory(directory, make=True, mode=_FOR_ALL)
        try:
            os.fchmod(descriptor, _FOR_ALL)
        finally:
            os.close(descriptor)


def _require_open(directories: Iterable[Path], bits: int, change: str) -> None:
    """Raises OSError if one that is there lacks these bits of its mode: others cannot come to read then."""
    for each in directories:
        if each.exists() and each.stat().st_mode & bits != bits:
            message = f"other users may not read there: chmod {change}"
            raise PermissionError(errno.EACCES, message, str(each))


def _copy(entries: dict[str, bytes], shared: KernelStore) -> Shared:
    copied = there = 0
    for key, payload in entries.items():
        if shared.readable_by_all(key) and shared.load(key) == payload:
            there += 1
            continue
        shared.store(key, payload, 0o644)
        if shared.load(key) != payload:
            raise OSError(f"{shared.directory} cannot be written")
        copied += 1
    return Shared(copied, there)
