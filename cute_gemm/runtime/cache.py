"""Compiled kernels on disk: one file per kernel, shared by processes, and believed only where it is safe.

A kernel is native code that this process runs, so directories and files are judged first, by
:mod:`cute_gemm.runtime.trust`. A file holds the whole key it was stored under, the SHA-256 of its payload and
the payload. One that says anything else than the key asked for, whose payload was damaged, or that others
could have written, is removed and counts as absent. Files appear by renaming, so a reader sees a whole file
or none, on network file systems too; locks only save duplicate work.

There are two directories: one of the user's own, and one that is only read, which an administrator fills for
all (``cute-gemm share``).
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..storage import (
    DIRECTORY_VARIABLE,
    NoDirectoryError,
    cache_dir,
    locked,
    named_directory,
    read_regular,
    replace_file_in,
)
from . import cache_limits
from .cache_limits import MOST_BYTES_OF_A_KERNEL, SUFFIX
from .trust import UntrustedError, open_directory, require_own

logger = logging.getLogger(__name__)

SHARED_VARIABLE = "CUTE_GEMM_SHARED_CACHE_DIR"
"""Environment variable that names the directory of kernels that are only read; empty or not set, none is."""

_FORMAT = "cute_gemm compiled kernel, format 1"
_LOCK_SECONDS = 60.0
"""How long to wait for another process that compiles the same kernel, which takes seconds."""


@dataclass(frozen=True)
class CacheInfo:
    """What a cache directory holds.

    Attributes:
        directory: where it is, or None if it is switched off, or cannot be said.
        kernels: number of stored kernels, of any version of this package.
        size: the bytes of all that is stored there, leftovers too.
        refusal: why the directory is not used; empty if it is, or if it does not exist yet.
        leftovers: number of files whose writer was killed, or is at it.
    """

    directory: Path | None
    kernels: int = 0
    size: int = 0
    refusal: str = ""
    leftovers: int = 0


def cache_info() -> CacheInfo:
    """What the disk cache holds now; creates nothing."""
    try:
        return _info(cache_dir())
    except NoDirectoryError as error:
        return CacheInfo(None, refusal=str(error))


def shared_cache_info() -> CacheInfo:
    """What the directory holds that ``CUTE_GEMM_SHARED_CACHE_DIR`` names."""
    try:
        return _info(named_directory(SHARED_VARIABLE))
    except NoDirectoryError as error:
        return CacheInfo(None, refusal=str(error))


@contextmanager
def opened() -> Iterator[Kernels]:
    """The kernels on disk. Warns once of a directory that cannot be used, and goes on without it."""
    with ExitStack() as stack:
        yield Kernels(
            _open(cache_dir, DIRECTORY_VARIABLE, True, stack),
            _open(lambda: named_directory(SHARED_VARIABLE), SHARED_VARIABLE, False, stack),
        )


class Kernels:
    """The user's own kernels, and those that are only read. Either may be missing."""

    def __init__(self, own: KernelStore | None, shared: KernelStore | None) -> None:
        self.own, self.shared = own, shared

    def load(self, key: str) -> tuple[bytes, KernelStore] | None:
        """The payload stored under exactly ``key``, and where it was; None if it is nowhere."""
        for store in (self.own, self.shared):
            payload = store.load(key) if store else None
            if store is not None and payload is not None:
                return payload, store
        return None

    @contextmanager
    def exclusive(self, key: str) -> Iterator[None]:
        """As :meth:`KernelStore.exclusive`, of the user's own."""
        with self.own.exclusive(key) if self.own else ExitStack():
            yield


class KernelStore:
    """Byte strings in an open directory, by key. A full, read-only or slow disk makes nothing here raise.

    Args:
        directory: where it is, for messages.
        descriptor: of the open directory; all is done relative to it. The caller closes it.
    """

    def __init__(self, directory: Path, descriptor: int) -> None:
        self.directory = directory
        self._descriptor = descriptor

    def load(self, key: str) -> bytes | None:
        """The payload stored under exactly ``key``, or None. A file that is not that is removed."""
        name = _name(key)
        try:
            content, found = read_regular(name, MOST_BYTES_OF_A_KERNEL, self._descriptor)
            require_own(found, self.directory / name)
        except FileNotFoundError:
            return None
        except UntrustedError as error:
            logger.warning("threw away a stored kernel: %s", error)
            self.discard(key)
            return None
        except OSError as error:
            # It is replaced by the kernel that is compiled now.
            _warn_once(f"did not use {self.directory / name}: {error.strerror}")
            return None
        payload = content[len(_entry(key, b"")) :]
        if content != _entry(key, payload):
            logger.warning("threw away %s: damaged, or another kernel's", self.directory / name)
            self.discard(key)
            return None
        cache_limits.note_use(self._descriptor, name, found)
        return payload

    def store(self, key: str, payload: bytes, mode: int = 0o600) -> None:
        """Keeps ``payload`` under ``key``, or warns once that this cannot be done."""
        try:
            replace_file_in(self._descriptor, _name(key), _entry(key, payload), mode)
        except OSError as error:
            _warn_once(f"cannot keep compiled kernels in {self.directory}: {error.strerror}")

    def prune(self) -> None:
        """Removes what is old, and what is too much (:mod:`cute_gemm.runtime.cache_limits`)."""
        cache_limits.prune(self._descriptor)

    def discard(self, key: str) -> None:
        """Removes what is stored under ``key``, if there is anything and it can be removed."""
        with suppress(OSError):
            os.unlink(_name(key), dir_fd=self._descriptor)

    def every_key(self) -> Iterator[str]:
        """The keys of all kernels that are whole, of any version of this package."""
        for name in cache_limits.kernel_names(self._descriptor):
            with suppress(OSError, ValueError, IndexError):
                content, found = read_regular(name, MOST_BYTES_OF_A_KERNEL, self._descriptor)
                require_own(found, self.directory / name)
                key = json.loads(content.split(b"\n", 2)[1])
                if name == _name(key) and content == _entry(key, content[len(_entry(key, b"")) :]):
                    yield key

    @contextmanager
    def exclusive(self, key: str) -> Iterator[None]:
        """Holds other processes off ``key``; where locks do not work, or after a while, just goes on."""
        with ExitStack() as stack:
            try:
                name = cache_limits.lock_name(_name(key))
                if not stack.enter_context(locked(name, _LOCK_SECONDS, self._descriptor)):
                    logger.info("going on without a lock, which another has held for %s s", _LOCK_SECONDS)
            except OSError as error:
                logger.info("going on without a lock: %s", error.strerror)
            yield


def _open(find: Callable[[], Path | None], variable: str, make: bool, stack: ExitStack) -> KernelStore | None:
    """A store of the directory that ``find`` finds, open as long as ``stack``; None, warned of, if unfit."""
    try:
        directory = find()
        if directory is None:
            return None
        descriptor = open_directory(directory, make)
    except UntrustedError as error:
        # The way out comes with it.
        _warn_once(f"kernels on disk are not used: {error}")
        return None
    except OSError as error:
        _warn_once(f"kernels on disk are not used: {_reason(error)}; set {variable}, or to nothing for none")
        return None
    stack.callback(os.close, descriptor)
    return KernelStore(directory, descriptor)


def _info(directory: Path | None) -> CacheInfo:
    if directory is None:
        return CacheInfo(None)
    try:
        descriptor = open_directory(directory)
        try:
            held = cache_limits.survey(descriptor)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return CacheInfo(directory)
    except OSError as error:
        return CacheInfo(directory, refusal=_reason(error))
    return CacheInfo(directory, len(held.kernels), held.size, "", len(held.temporaries))


def _name(key: str) -> str:
    return f"{hashlib.sha256(key.encode()).hexdigest()}{SUFFIX}"


def _entry(key: str, payload: bytes) -> bytes:
    header = (_FORMAT, json.dumps(key), hashlib.sha256(payload).hexdigest(), "")
    return "\n".join(header).encode() + payload


def _reason(error: OSError) -> str:
    """What went wrong, with the path where the message has one."""
    if error.strerror is None:
        return str(error)
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)
