"""Where tuned choices are kept, and how they are read and written."""

from __future__ import annotations

import errno
import functools
import itertools
import logging
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from ...storage import cache_dir, locked, named_directory, read_regular, reason, replace_file
from .table import DamagedError, Entry, Table, TunedError, parse, render

logger = logging.getLogger(__name__)

DIRECTORY_VARIABLE = "CUTE_GEMM_TUNED_DIR"
"""Environment variable that names the directory of the user's files; set but empty, there are none."""

_PACKAGE_DIRECTORY = Path(__file__).parent
_NAMED = 3
_MOST_BYTES = 16 * 2**20
"""Of a file: 100,000 entries."""

_LOCK_SECONDS = 60.0
"""How long to wait for another process that writes the same file, which takes milliseconds."""


def user_directory() -> Path | None:
    """Where the user's files are, whether it exists or not; None if there are to be none.

    ``CUTE_GEMM_TUNED_DIR`` names it. Unset, it is ``tuned`` in the directory of the disk cache.

    Raises:
        NoDirectoryError: what is named is nowhere, or there is no home directory.
    """
    if DIRECTORY_VARIABLE in os.environ:
        return named_directory(DIRECTORY_VARIABLE)
    cache = cache_dir()
    return None if cache is None else cache / "tuned"


def file_name(device_name: str) -> str:
    """Of the file for devices of a name: ``nvidia_h200.json`` for ``NVIDIA H200``."""
    return re.sub(r"[^a-z0-9]+", "_", device_name.lower()).strip("_") + ".json"


@functools.cache
def tables(device_name: str) -> tuple[Table, ...]:
    """The user's table for devices of a name and the package's, where there are any; read once a process."""
    name, own, found = file_name(device_name), _usable_directory(), []
    if own is not None:
        entries = _load(own / name, device_name)
        # Those that come with the package are of its version.
        _warn_of_stale(own / name, entries)
        found.append(Table(entries))
    return *found, Table(_load(_PACKAGE_DIRECTORY / name, device_name))


def read(path: Path, device_name: str) -> list[Entry]:
    """The entries of a file, also those whose configuration does not exist; none if there is no file.

    Raises:
        DamagedError: it holds no tuned choices.
        TunedError: it holds those of another format or device, or cannot be read.
    """
    try:
        content, _ = read_regular(path, _MOST_BYTES)
        return parse(content.decode(), device_name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TunedError(f"it cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DamagedError(f"it is no text in UTF-8: {error.reason} at byte {error.start}") from error


def merge(path: Path, device_name: str, entries: Iterable[Entry]) -> Path | None:
    """Add entries to a file, in the place of those of the same problems; make it if it was not there.

    Other processes may do the same at the same time. Of a file that is damaged a copy is kept.

    Returns:
        Where the copy is, if there is one.

    Raises:
        TunedError: what is there is of another format or for another device, or cannot be read; it stays.
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lock, is_held = path.with_name(f".{path.name}.lock"), True
        # Where there are no locks, of two writers at the same time one may lose an entry.
        with suppress(OSError):
            is_held = stack.enter_context(locked(lock, _LOCK_SECONDS))
        if not is_held:
            raise TimeoutError(errno.ETIMEDOUT, "another process holds it", str(lock))
        copy, there = None, []
        try:
            there = read(path, device_name)
        except DamagedError:
            copy = _keep_copy(path)
        merged = {entry.key: entry for entry in (*there, *entries)}
        replace_file(path, render(device_name, merged.values()).encode(), mode=0o644)
    return copy


def _keep_copy(path: Path) -> Path:
    """Copies a file to a name beside it that no other has: as it is, it may still be mended by hand."""
    content, _ = read_regular(path, _MOST_BYTES)
    for number in itertools.count(1):
        copy = path.with_name(f"{path.name}.damaged-{number}")
        with suppress(FileExistsError), copy.open("xb") as file:
            file.write(content)
            break
    return copy


def _usable_directory() -> Path | None:
    """The user's, if there is one that can be read.

    The cache of kernels warns where its own directory cannot be, so this says nothing then.
    """
    level = logging.WARNING if DIRECTORY_VARIABLE in os.environ else logging.DEBUG
    try:
        directory = user_directory()
        if directory is not None:
            os.stat(directory / ".")
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.log(level, "no tuned choices of one's own: %s", reason(error))
        return None
    return directory


def _load(path: Path, device_name: str) -> list[Entry]:
    """The entries of a file; none, with a warning, where they cannot be used."""
    try:
        return read(path, device_name)
    except TunedError as error:
        logger.warning("ignored %s: %s", path, error)
        return []


def _warn_of_stale(path: Path, entries: Sequence[Entry]) -> None:
    """One warning says which of them cannot be used."""
    stale = [entry for entry in entries if entry.kernel_config is None]
    if stale:
        names = sorted({entry.config for entry in stale})
        logger.warning(
            "ignored %d of %d entries of %s: this version has no configuration %s; see `cute-gemm tune`",
            len(stale),
            len(entries),
            path,
            ", ".join(map(ascii, names[:_NAMED])) + (", ..." if len(names) > _NAMED else ""),
        )
