"""Compiled kernels on disk: one file per kernel, shared by processes and never trusted unread.

A file holds the whole key it was stored under, the SHA-256 of its payload and the payload. One that says
anything else than the key asked for, or whose payload was damaged, is removed and counts as absent. Files
appear by renaming, so a reader sees a whole file or none, on network file systems too; locks only save
duplicate work.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import filelock

from ..storage import DIRECTORY_VARIABLE, cache_dir, replace_file

logger = logging.getLogger(__name__)

_FORMAT = "cute_gemm compiled kernel, format 1"
_SUFFIX = ".kernel"
_LOCK_SECONDS = 60.0
"""How long to wait for another process that compiles the same kernel, which takes seconds."""


@dataclass(frozen=True)
class CacheInfo:
    """What the disk cache holds.

    Attributes:
        directory: where it is, or None if it is switched off.
        kernels: number of stored kernels, of any version of this package.
        size: their size in bytes.
        refusal: why the directory is not used; empty if it is, or if it does not exist yet.
    """

    directory: Path | None
    kernels: int
    size: int
    refusal: str


def cache_info() -> CacheInfo:
    """What the disk cache holds now; creates nothing."""
    directory = cache_dir()
    if directory is None or not directory.is_dir():
        return CacheInfo(directory, 0, 0, "")
    sizes = []
    for file in directory.glob(f"*{_SUFFIX}"):
        with suppress(OSError):
            sizes.append(file.stat().st_size)
    return CacheInfo(directory, len(sizes), sum(sizes), _refusal(directory))


def open_store() -> KernelStore | None:
    """The disk cache, made if it was not there; None, after one warning, where there can be none."""
    directory = cache_dir()
    if directory is None:
        return None
    try:
        if not directory.is_absolute():
            # Without a home directory "~" stays as it is, and would be made in the current directory.
            raise OSError("there is no home directory")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        refusal = _refusal(directory)
    except OSError as error:
        refusal = str(error)
    if refusal:
        _warn_once(f"kernels are not kept on disk in {directory}: {refusal}; set {DIRECTORY_VARIABLE}")
        return None
    return KernelStore(directory)


class KernelStore:
    """Byte strings in a directory, by key. A full, read-only or slow disk makes nothing here raise."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self, key: str) -> bytes | None:
        """The payload stored under exactly ``key``, or None. A file that is not that is removed."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _warn_once(f"cannot read the kernels kept in {self.directory}: {error.strerror}")
            return None
        payload = content[len(_entry(key, b"")) :]
        if content != _entry(key, payload):
            logger.warning("threw away %s: damaged, or another kernel's", path)
            self.discard(key)
            return None
        return payload

    def store(self, key: str, payload: bytes) -> None:
        """Keep ``payload`` under ``key``, or warn once that this cannot be done."""
        path = self._path(key)
        try:
            replace_file(path, _entry(key, payload))
        except OSError as error:
            _warn_once(f"cannot keep compiled kernels in {self.directory}: {error.strerror}")

    def discard(self, key: str) -> None:
        """Remove what is stored under ``key``, if there is anything and it can be removed."""
        with suppress(OSError):
            self._path(key).unlink()

    @contextmanager
    def exclusive(self, key: str) -> Iterator[None]:
        """Hold other processes off ``key``; where locks do not work, or after a while, just go on."""
        path = self._path(key).with_suffix(".lock")
        lock = filelock.FileLock(path, timeout=_LOCK_SECONDS)
        held = True
        try:
            path.touch()  # Where this fails, acquiring would be tried again until the time is up.
            lock.acquire()
        except (OSError, NotImplementedError) as error:
            held = False
            logger.info("going on without a lock: %s", error)
        try:
            yield
        finally:
            if held:
                with suppress(OSError):
                    lock.release()

    def _path(self, key: str) -> Path:
        return self.directory / f"{hashlib.sha256(key.encode()).hexdigest()}{_SUFFIX}"


def _entry(key: str, payload: bytes) -> bytes:
    header = (_FORMAT, json.dumps(key), hashlib.sha256(payload).hexdigest(), "")
    return "\n".join(header).encode() + payload


def _refusal(directory: Path) -> str:
    """Why native code from this directory must not be run; empty if it may be."""
    found = directory.stat()
    if found.st_mode & stat.S_IWOTH:
        return "anyone may write there, so anyone could have put code there for this process to run"
    if not os.environ.get(DIRECTORY_VARIABLE) and found.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {found.st_uid}, not to this one ({os.geteuid()})"
    return ""


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)
