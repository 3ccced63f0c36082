"""Where files are kept, and how they are written so that nobody reads half of one."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import platformdirs

DIRECTORY_VARIABLE = "CUTE_GEMM_CACHE_DIR"
"""Environment variable that names the cache directory; set but empty, nothing is kept on disk."""


def cache_dir() -> Path | None:
    """The directory of the disk cache, whether it exists or not; None if the cache is switched off.

    ``CUTE_GEMM_CACHE_DIR`` names it. Unset, it is the platform's cache directory (``~/.cache/cute_gemm`` on
    Linux); set but empty, there is no disk cache. Read at every use, so it may be changed in a running
    process.
    """
    named = os.environ.get(DIRECTORY_VARIABLE)
    if named is None:
        return Path(platformdirs.user_cache_dir("cute_gemm"))
    return Path(named).expanduser().absolute() if named else None


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file by renaming: a reader sees all of the old content or all of the new, whatever happens.

    Raises:
        OSError: it cannot be written; it is as it was.
    """
    descriptor, temporary = tempfile.mkstemp(".tmp", f".{path.stem}.", path.parent)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
