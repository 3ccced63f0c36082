"""Where files are kept, and how they are read and written: whole or not at all, and never without end."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DIRECTORY_VARIABLE = "CUTE_GEMM_CACHE_DIR"
"""Environment variable that names the cache directory; set but empty, nothing is kept on disk."""

TEMPORARY = ".tmp"
"""How the names of files end that are being written, or whose writer was killed."""

TEMPORARY_SECONDS = 600
"""After so long a temporary file has lost its writer, which takes milliseconds."""

_POLL_SECONDS = 0.02


class NoDirectoryError(OSError):
    """There is no such directory to be had: the message says why."""


def cache_dir() -> Path | None:
    """The directory of the disk cache, whether it exists or not; None if the cache is switched off.

    ``CUTE_GEMM_CACHE_DIR`` names it. Unset, it is the platform's cache directory (``~/.cache/cute_gemm`` on
    Linux); set but empty, there is no disk cache. Read at every use, so it may be changed in a running
    process.

    Raises:
        NoDirectoryError: as :func:`named_directory`; or nothing is named, and there is no home directory.
    """
    if DIRECTORY_VARIABLE in os.environ:
        return named_directory(DIRECTORY_VARIABLE)
    if os.environ.get("HOME") == "" and not os.environ.get("XDG_CACHE_HOME"):
        # Some versions of platformdirs take it for the root directory.
        raise NoDirectoryError("HOME is empty: this user has no home directory")
    # 3 ms, which a process that launches no kernel need not wait.
    import platformdirs

    try:
        found = Path(platformdirs.user_cache_dir("cute_gemm"))
    except (RuntimeError, OSError) as error:
        raise NoDirectoryError(f"this user has no home directory: {error}") from error
    if not found.is_absolute():
        # Else "~" stays as it is, and would be made in the current directory.
        raise NoDirectoryError("this user has no home directory")
    return found


def named_directory(variable: str) -> Path | None:
    """The absolute path that an environment variable names, ``~`` expanded; None if it is empty or not set.

    Raises:
        NoDirectoryError: the path is of a user whom nobody knows, or relative to a directory that is gone.
    """
    named = os.environ.get(variable)
    if not named:
        return None
    try:
        return Path(named).expanduser().absolute()
    except (RuntimeError, OSError) as error:
        raise NoDirectoryError(f"{variable} is {named!r}: {error}") from error


def read_regular(path: str | Path, most: int, directory: int | None = None) -> tuple[bytes, os.stat_result]:
    """The content of a regular file, and its status as of when it was opened.

    Args:
        path: if ``directory`` is given, a name in it, which may not be a link.
        most: bytes to read at most.
        directory: the descriptor of an open directory.

    Raises:
        OSError: it cannot be read; or it is a pipe, a socket or a device, or longer than ``most``.
    """
    # A pipe without a writer would wait for one.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if directory is None else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, dir_fd=directory)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        # A sparse file may say that it has any size; one that is being written may grow.
        content = file.read(most + 1) if found.st_size <= most else b""
        if found.st_size > most or len(content) > most:
            raise OSError(errno.EFBIG, f"it has more than {most} bytes")
        return content, found


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file by renaming: a reader sees all of the old content or all of the new, whatever happens.

    A writer that is killed leaves a hidden file that ends in ``.tmp``; the next one that comes ten minutes
    later removes it.

    Raises:
        OSError: it cannot be written; it is as it was.
    """
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        replace_file_in(directory, path.name, content, mode)
    finally:
        os.close(directory)
    for left in path.parent.glob(f"{glob.escape(f'.{path.name}.')}*{TEMPORARY}"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > TEMPORARY_SECONDS:
                left.unlink()


def replace_file_in(directory: int, name: str, content: bytes, mode: int) -> None:
    """As :func:`replace_file`, of a name in an open directory."""
    temporary = f".{name}.{secrets.token_hex(8)}{TEMPORARY}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise


@contextmanager
def locked(name: str | Path, seconds: float, directory: int | None = None) -> Iterator[bool]:
    """Holds a lock that other processes and threads take by the same name.

    Not :mod:`filelock`: where a file system has no locks, some of its versions wait until the time is up.

    Args:
        name: of the lock's file, which is made and stays. Links are not followed.
        seconds: how long to wait for the lock.
        directory: the descriptor of an open directory in which ``name`` is.

    Yields:
        Whether it is held; False if the time is up.

    Raises:
        OSError: there can be no lock: the file cannot be made or is none, or the file system has no locks.
    """
    descriptor = _open_lock(name, directory)
    try:
        is_held = _acquire(descriptor, time.monotonic() + seconds)
        try:
            yield is_held
        finally:
            # A child that was forked meanwhile has the descriptor, too: closing this one would not do.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        # It gives the lock back where the process is killed.
        os.close(descriptor)


def _open_lock(name: str | Path, directory: int | None) -> int:
    """A file that nobody else can open, and so hold for ever. An empty one that others can is replaced."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    for _ in range(2):
        descriptor = os.open(name, flags, 0o600, dir_fd=directory)
        found = os.fstat(descriptor)
        is_lock = stat.S_ISREG(found.st_mode) and not found.st_size
        if is_lock and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
            return descriptor
        os.close(descriptor)
        if not is_lock:
            raise OSError(errno.EEXIST, "something else than a lock has its name")
        os.unlink(name, dir_fd=directory)
    raise OSError(errno.EBUSY, "others can open the file of the lock")


def _acquire(descriptor: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        else:
            return True


def reason(error: OSError) -> str:
    """What went wrong, with the path where the error has one."""
    if error.strerror is None:
        return str(error)
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
