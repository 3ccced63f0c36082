"""Compiled kernels on disk: one file per kernel, shared by processes, and believed only where it is safe.

A kernel is native code that this process runs, so directories and files are judged first, by
:mod:`cute_gemm.runtime.trust`. A file holds the whole key it was stored under, the SHA-256 of its payload and
the payload. One that says anything else than the key asked for, whose payload was damaged, or that others
could have written, counts as absent, and is removed if it can be. Files appear by renaming, so a reader sees
a whole file or none, on network file systems too; locks only save duplicate work.

There are two directories: one of the user's own, and one that is only read, which an administrator fills for
all (``cute-gemm share``).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
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
    reason,
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
        directory = cache_dir()
    except NoDirectoryError as error:
        return CacheInfo(None, refusal=str(error))
    try:
        return _info(directory)
    except FileNotFoundError:
        return CacheInfo(directory, refusal=_why_not_made(directory))


def shared_cache_info() -> CacheInfo:
    """What the directory holds that ``CUTE_GEMM_SHARED_CACHE_DIR`` names."""
    try:
        directory = named_directory(SHARED_VARIABLE)
    except NoDirectoryError as error:
        return CacheInfo(None, refusal=str(error))
    try:
        return _info(directory)
    except FileNotFoundError as error:
        return CacheInfo(directory, refusal=reason(error))


@contextmanager
def opened() -> Iterator[Kernels]:
    """The kernels on disk. Warns once of a directory that cannot be used, and goes on without it."""
    with ExitStack() as stack:
        yield Kernels(
            _open("kernels on disk", cache_dir, DIRECTORY_VARIABLE, True, stack),
            _open("shared kernels", lambda: named_directory(SHARED_VARIABLE), SHARED_VARIABLE, False, stack),
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
        except FileNotFoundError:
            return None
        except PermissionError as error:
            _warn_once(f"kernels in {self.directory} cannot be read: {error.strerror}")
            return None
        except OSError as error:
            # It is replaced by the kernel that is compiled now.
            _warn_once(f"did not use {self.directory / name}: {error.strerror}")
            return None
        objection = self._objection(key, content, found)
        if objection:
            was_removed = self._remove(name, found)
            _warn_once(f"{'threw away' if was_removed else 'did not use'} a stored kernel: {objection}")
            return None
        cache_limits.note_use(self._descriptor, name, found)
        return _payload_in(content, key)

    def _objection(self, key: str, content: bytes, found: os.stat_result) -> str:
        """Why what was read is not the kernel of ``key``; empty if it is."""
        path = self.directory / _name(key)
        try:
            require_own(found, path)
        except UntrustedError as error:
            return error.why
        is_entry = content == _entry(key, _payload_in(content, key))
        return "" if is_entry else f"{path} is damaged, or another kernel's"

    def _remove(self, name: str, found: os.stat_result) -> bool:
        """Removes the file that was found, and not one that another process has put there meanwhile."""
        with suppress(OSError):
            if os.path.samestat(os.stat(name, dir_fd=self._descriptor, follow_symlinks=False), found):
                os.unlink(name, dir_fd=self._descriptor)
                return True
        return False

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

    def entries(self) -> Iterator[tuple[str, bytes]]:
        """Keys and payloads of all kernels that :meth:`load` would give, of any version of this package.

        None counts as used.

        Raises:
            OSError: the directory cannot be listed.
        """
        for name in cache_limits.kernel_names(self._descriptor):
            with suppress(OSError):
                content, found = read_regular(name, MOST_BYTES_OF_A_KERNEL, self._descriptor)
                key = _key_in(content)
                if key is not None and name == _name(key) and not self._objection(key, content, found):
                    yield key, _payload_in(content, key)

    def readable_by_all(self, key: str) -> bool:
        """Whether any user may read what is stored under ``key``."""
        with suppress(OSError):
            return bool(os.stat(_name(key), dir_fd=self._descriptor).st_mode & 0o004)
        return False

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


def _open(
    what: str, find: Callable[[], Path | None], variable: str, make: bool, stack: ExitStack
) -> KernelStore | None:
    """A store of the directory that ``find`` finds, open as long as ``stack``; None, warned of, if unfit.

    ``what`` it holds, and the ``variable`` that names it, are for the warning.
    """
    try:
        directory = find()
        if directory is None:
            return None
        descriptor = open_directory(directory, make)
    except OSError as error:
        way_out = f"or set {variable} to another directory, or to nothing"
        _warn_once(f"{what} are not used: {reason(error)}; {way_out}")
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
        raise
    except OSError as error:
        return CacheInfo(directory, refusal=reason(error))
    return CacheInfo(directory, len(held.kernels), held.size, "", len(held.temporaries))


def _why_not_made(directory: Path | None) -> str:
    """Why a directory that is not there cannot be made; empty as far as that can be told."""
    there = next((each for each in directory.parents if each.exists()), None) if directory else None
    if there is None or os.access(there, os.W_OK | os.X_OK):
        return ""
    return f"it is not there, and nothing can be made in {there}"


def _name(key: str) -> str:
    return f"{hashlib.sha256(key.encode()).hexdigest()}{SUFFIX}"


def _key_in(content: bytes) -> str | None:
    """The key that an entry says it is of."""
    try:
        key = json.loads(content.split(b"\n", 2)[1])
    # Of text that is nested a thousand deep the parser says RecursionError.
    except (ValueError, IndexError, RecursionError):
        return None
    return key if isinstance(key, str) else None


def _payload_in(content: bytes, key: str) -> bytes:
    """What stands behind a header of the length that the key's has."""
    return content[len(_entry(key, b"")) :]


def _entry(key: str, payload: bytes) -> bytes:
    header = (_FORMAT, json.dumps(key), hashlib.sha256(payload).hexdigest(), "")
    return "\n".join(header).encode() + payload


_warned: set[str] = set()
_warning = threading.Lock()


def _warn_once(message: str) -> None:
    with _warning:
        is_new = message not in _warned
        _warned.add(message)
    if is_new:
        logger.warning(message)
