"""Files that users name: read with care, and seen to be writable before anything takes long."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from .console import printable
from .errors import CommandError

MOST_BYTES = 64 << 20
"""What is read of a file at most: results and descriptions of models are far smaller."""


def read_text(path: Path) -> str:
    """The text of a file, which may be a pipe.

    Raises:
        CommandError: it cannot be read, is not UTF-8, or is too large.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise CommandError(f"{named(path)}: it has more than {MOST_BYTES >> 20} MiB")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise CommandError(f"{named(path)}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{named(path)}: not UTF-8: {error}") from error


def parse_json(text: str, where: str) -> Any:
    """What a JSON text says.

    Raises:
        CommandError: it is none, or nested too deeply; ``where`` it was, the message says.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{where}: {error}") from error


def require_writable(directory: Path) -> None:
    """Makes a directory if need be.

    Raises:
        CommandError: no file can be made in it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise CommandError(
            f"cannot write to {named(directory)}: {error.strerror}; name another by --out"
        ) from error


def named(path: Path) -> str:
    """A path as messages have it."""
    return printable(path)
