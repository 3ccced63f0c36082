"""What is installed, as its metadata says: of a name that is on ``sys.path`` twice, what Python imports."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib import metadata

_END_OF_HEADER = re.compile(r"\r?\n\r?\n")
_NAME, _VERSION = (re.compile(rf"^{field}:[ \t]*(\S+)", re.M | re.I) for field in ("Name", "Version"))


def versions(*patterns: str) -> dict[str, str]:
    """Versions of installed distributions, by normalised name (``nvidia-cutlass-dsl``), sorted.

    Of several of one name the first on ``sys.path`` counts. What has no readable metadata, such as the rest
    that an interrupted installation leaves, does not count.

    Args:
        patterns: names, normalised, or shell patterns of them. What matches any is listed.
    """
    found = {}
    # By the names of folders: to read the metadata of a hundred distributions takes 8 ms.
    for name in sorted(
        each for each in _folders() if any(fnmatchcase(each, pattern) for pattern in patterns)
    ):
        described = _described(metadata.distributions(name=name))
        # pip renames what it cannot remove, with the metadata in it.
        version = next((version for named, version in described if named == name), None)
        if version is not None:
            found[name] = version
    return found


def _folders() -> set[str]:
    """Normalised names of folders of metadata, wherever Python imports from."""
    found = set()
    for place in sys.path:
        with suppress(OSError):
            for each in os.listdir(place or "."):
                stem, _, kind = each.rpartition(".")
                if kind in ("dist-info", "egg-info"):
                    found.add(_normalised(stem.partition("-")[0]))
    return found


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _described(distributions: Iterable[metadata.Distribution]) -> Iterator[tuple[str, str]]:
    """Normalised name and version of each that has both."""
    for each in distributions:
        # Not `each.name` and `each.version`: what they do without metadata differs from Python to Python.
        try:
            text = each.read_text("METADATA") or each.read_text("PKG-INFO") or ""
        except (OSError, ValueError):
            continue
        # Not by a parser of e-mail, which takes 20 ms for a hundred of them.
        header = _END_OF_HEADER.split(text, 1)[0]
        name, version = (pattern.search(header) for pattern in (_NAME, _VERSION))
        if name and version:
            yield _normalised(name[1]), version[1]
