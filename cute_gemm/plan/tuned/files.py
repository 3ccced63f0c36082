"""Where tuned choices are kept, and how they are read and written."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

import filelock

from ...storage import cache_dir, replace_file
from .table import Entry, Table, TunedError, parse, render

logger = logging.getLogger(__name__)

DIRECTORY_VARIABLE = "CUTE_GEMM_TUNED_DIR"
"""Environment variable that names the directory of the user's files; set but empty, there are none."""

_PACKAGE_DIRECTORY = Path(__file__).parent
_NAMED = 3


def user_directory() -> Path | None:
    """Where the user's files are, whether it exists or not; None if there are to be none.

    ``CUTE_GEMM_TUNED_DIR`` names it. Unset, it is ``tuned`` in the directory of the disk cache.
    """
    named = os.environ.get(DIRECTORY_VARIABLE)
    if named is not None:
        return Path(named).expanduser().absolute() if named else None
    cache = cache_dir()
    return None if cache is None else cache / "tuned"


def file_name(device_name: str) -> str:
    """Of the file for devices of a name: ``nvidia_h200.json`` for ``NVIDIA H200``."""
    return re.sub(r"[^a-z0-9]+", "_", device_name.lower()).strip("_") + ".json"


@functools.cache
def tables(device_name: str) -> tuple[Table, ...]:
    """The user's table for devices of a name and the package's, where there are any; read once a process."""
    directories = filter(None, (user_directory(), _PACKAGE_DIRECTORY))
    return tuple(Table(_load(directory / file_name(device_name), device_name)) for directory in directories)


def read(path: Path, device_name: str) -> list[Entry]:
    """The entries of a file, also those whose configuration does not exist; none if there is no file.

    Raises:
        TunedError: it holds anything else, or cannot be read.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), device_name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TunedError(f"it cannot be read: {error.strerror}") from error


def merge(path: Path, device_name: str, entries: Iterable[Entry]) -> None:
    """Add entries to a file, in the place of those of the same problems; make it if it was not there.

    Other processes may do the same at the same time.

    Raises:
        TunedError: what is there is no such file, and stays as it is.
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_suffix(".lock")):
        merged = {entry.key: entry for entry in (*read(path, device_name), *entries)}
        replace_file(path, render(device_name, merged.values()).encode(), mode=0o644)


def _load(path: Path, device_name: str) -> list[Entry]:
    """The entries of a file; one warning says which of them cannot be used, or that none can."""
    try:
        entries = read(path, device_name)
    except TunedError as error:
        logger.warning("ignored %s: %s", path, error)
        return []
    stale = [entry for entry in entries if entry.kernel_config is None]
    if stale:
        names = sorted({entry.config for entry in stale})
        logger.warning(
            "ignored %d of %d entries of %s: this version has no configuration %s; see `cute-gemm tune`",
            len(stale),
            len(entries),
            path,
            ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else ""),
        )
    return entries
