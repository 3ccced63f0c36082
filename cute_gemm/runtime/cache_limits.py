"""How much a cache directory may hold, and for how long: what is removed after a kernel was compiled.

Kernels of older versions are never asked for again, and writers that are killed leave temporary files. Nobody
else removes them.
"""

from __future__ import annotations

import os
import re
import stat
import time
from contextlib import suppress
from typing import NamedTuple

from ..storage import TEMPORARY, TEMPORARY_SECONDS

SUFFIX = ".kernel"
_LOCK_SUFFIX = ".lock"

MOST_BYTES_OF_A_KERNEL = 64 * 2**20
"""Kernels have about 100 kB. What is longer is none."""

MOST_BYTES = 512 * 2**20
"""Of kernels and temporary files together. All kernels of one version that can be chosen have about 30 MB."""

UNUSED_SECONDS = 90 * 86400
"""After so long without use a kernel is removed."""

_NOTED_SECONDS = 86400
"""A use is written down once a day: an inode changes then."""

_NAMES = {
    kind: re.compile(pattern)
    for kind, pattern in {
        "kernels": rf"[0-9a-f]{{64}}{re.escape(SUFFIX)}",
        "temporaries": rf"\.[0-9a-f]{{64}}{re.escape(SUFFIX)}\.[0-9a-f]{{16}}{re.escape(TEMPORARY)}",
        "locks": rf"[0-9a-f]{{64}}{re.escape(_LOCK_SUFFIX)}",
    }.items()
}
"""Of files that are this package's. Whoever names a directory of theirs may have others there."""


class File(NamedTuple):
    """A file of the cache."""

    name: str
    size: int
    modified: float


class Held(NamedTuple):
    """What a directory holds, the oldest first."""

    kernels: list[File]
    temporaries: list[File]
    locks: list[File]

    @property
    def size(self) -> int:
        """Bytes of kernels and temporary files; locks are empty."""
        return sum(file.size for file in (*self.kernels, *self.temporaries))


def lock_name(name: str) -> str:
    """Of the lock of a kernel that is stored under ``name``."""
    return name.removesuffix(SUFFIX) + _LOCK_SUFFIX


def kernel_names(directory: int) -> list[str]:
    """Of all kernels in an open directory."""
    return [file.name for file in survey(directory).kernels]


def survey(directory: int) -> Held:
    """What an open directory holds. Other files than this package's are not counted, nor ever removed."""
    held = Held([], [], [])
    with os.scandir(directory) as entries:
        for entry in entries:
            kind = next((kind for kind, name in _NAMES.items() if name.fullmatch(entry.name)), None)
            if kind is None:
                continue
            with suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    file = File(entry.name, _bytes_on_disk(found), found.st_mtime)
                    getattr(held, kind).append(file)
    for of_kind in held:
        of_kind.sort(key=lambda file: file.modified)
    return held


def note_use(directory: int, name: str, found: os.stat_result) -> None:
    """Makes a kernel that was used the youngest, so that others are removed first."""
    if time.time() - found.st_mtime > _NOTED_SECONDS:
        with suppress(OSError):
            os.utime(name, dir_fd=directory, follow_symlinks=False)


def prune(directory: int) -> None:
    """Removes what is too old, then the oldest until the rest is small enough. Raises nothing."""
    with suppress(OSError):
        held, now = survey(directory), time.time()
        # What a clock that was wrong dates from the future would outlive all else.
        kept = [
            file
            for files, seconds in ((held.kernels, UNUSED_SECONDS), (held.temporaries, TEMPORARY_SECONDS))
            for file in files
            if abs(now - file.modified) <= seconds
        ]
        kept.sort(key=lambda file: file.modified, reverse=True)
        size = sum(file.size for file in kept)
        while kept and size > MOST_BYTES:
            size -= kept.pop().size
        names = {file.name for file in kept}
        for file in (*held.kernels, *held.temporaries):
            if file.name not in names:
                _remove(directory, file.name)
        # Whoever waits for a lock at that time does work twice; nothing else happens.
        locks_of_kept = set(map(lock_name, names))
        for lock in held.locks:
            if now - lock.modified > _NOTED_SECONDS and lock.name not in locks_of_kept:
                _remove(directory, lock.name)


def _bytes_on_disk(found: os.stat_result) -> int:
    """Of a sparse file only what is there."""
    return min(found.st_size, found.st_blocks * 512)


def _remove(directory: int, name: str) -> None:
    with suppress(OSError):
        os.unlink(name, dir_fd=directory)
