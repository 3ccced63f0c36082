"""Which directories and files this process believes: code that lies there runs in it.

docs/trust.md says what is trusted, and why. Everything is judged by what was opened, never by its name:
between a look at a name and its use, what it stands for can change.
"""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SEARCH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MOST_LINKS = 40
_ALL_USERS = ["0", "0", "4294967295"]
"""What a user namespace maps that all users are in."""


class UntrustedError(OSError):
    """Somebody else could have put there what this process would run.

    Args:
        why: that it is so.
        mend: what would mend it, for the message; empty if this user cannot.
    """

    def __init__(self, why: str, mend: str = "") -> None:
        super().__init__(f"{why}; mend it by: {mend}" if mend else why)
        self.why = why


def open_directory(path: Path, make: bool = False, mode: int = 0o700) -> int:
    """Opens a directory that nobody but root and this user can have filled.

    It and all links on the way belong to root or this user. Neither its group nor others may write in it. In
    directories above it others may write only where those have the sticky bit, as ``/tmp``: else they could
    put another directory of this user in its place.

    Args:
        path: an absolute one.
        make: make what is missing. Root makes nothing in a directory of another user, who could then not use
            it.
        mode: of what is made, less the umask.

    Returns:
        A descriptor, which the caller closes.

    Raises:
        UntrustedError: it is not so.
        FileNotFoundError: it does not exist, and is not to be made.
        OSError: it is no directory, or cannot be opened or made.
    """
    left = list(reversed(path.parts[1:]))
    here, at = os.open("/", _SEARCH), Path("/")
    links = 0
    try:
        while left:
            name = left.pop()
            _require_stable(os.fstat(here), at)
            with _named(at / name):
                target = _link(here, name, at)
                if target is None:
                    below, at = _enter(here, name, mode if make else None, at), at / name
                else:
                    links += 1
                    if links > _MOST_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    at = Path(target.root) if target.is_absolute() else at
                    below = os.open(target.root or ".", _SEARCH, dir_fd=here)
                    left += reversed([each for each in target.parts if each != target.root])
            os.close(here)
            here = below
        require_own(os.fstat(here), at)
        with _named(at):
            return os.open(".", _READ, dir_fd=here)
    finally:
        os.close(here)


def require_own(found: os.stat_result, path: Path) -> None:
    """Checks that a file or directory can have been written by root and this user alone.

    Args:
        found: the status of what was opened.
        path: where it is, for the message.

    Raises:
        UntrustedError: it can have been written by others.
    """
    me = os.geteuid()
    if not _is_believed(found.st_uid):
        others = f"neither to {_user(me)}, who runs this, nor to root" if me else "not to root, who runs this"
        raise UntrustedError(f"{path} belongs to {_user(found.st_uid)}, {others}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        who = "anyone" if found.st_mode & stat.S_IWOTH else "its group"
        raise UntrustedError(f"{who} may write to {path}", _mend("go-w", found, path))


def _require_stable(found: os.stat_result, path: Path) -> None:
    """Checks that not just anyone can rename what is in a directory above."""
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise UntrustedError(
            f"it is below {path}, where anyone may rename what is there", _mend("o-w", found, path)
        )


def _mend(change: str, found: os.stat_result, path: Path) -> str:
    """How this user can mend it, if they can."""
    can = os.geteuid() in (0, found.st_uid)
    return f"chmod {change} {shlex.quote(str(path))}" if can else ""


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Has errors name the whole path, not the one name in it that was looked for."""
    try:
        yield
    except UntrustedError:
        raise
    except OSError as error:
        error.filename = str(path)
        raise


def _link(directory: int, name: str, at: Path) -> Path | None:
    """Where a link leads; None if it is none, or not there.

    Raises:
        UntrustedError: the link is somebody else's.
    """
    try:
        link = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None
    try:
        found = os.fstat(link)
        if not stat.S_ISLNK(found.st_mode):
            return None
        if not _is_believed(found.st_uid):
            raise UntrustedError(
                f"{at / name} is a link of {_user(found.st_uid)}, who may let it lead anywhere"
            )
        return Path(os.readlink("", dir_fd=link))
    finally:
        os.close(link)


def _enter(directory: int, name: str, mode: int | None, at: Path) -> int:
    """Opens a directory in another one at ``at``; makes it if it is not there, unless ``mode`` is None."""
    try:
        return os.open(name, _SEARCH, dir_fd=directory)
    except FileNotFoundError:
        if mode is None:
            raise
        owner = os.fstat(directory).st_uid
        if os.geteuid() == 0 and owner != 0:
            raise UntrustedError(
                f"{at} belongs to {_user(owner)}, in whose directories root makes none"
            ) from None
        # Another process may make it at the same time.
        with suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=directory)
        return os.open(name, _SEARCH, dir_fd=directory)


def _is_believed(uid: int) -> bool:
    return uid in (0, os.geteuid()) and uid != _nobody_in_particular()


def _nobody_in_particular() -> int | None:
    """The number that stands for all users outside this user namespace; None if all are inside.

    A process may have it, too: it knows nothing of its own files then.
    """
    try:
        if Path("/proc/self/uid_map").read_text().split() == _ALL_USERS:
            return None
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except OSError:
        return None


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (user {uid})"
    except KeyError:
        return f"user {uid}"
