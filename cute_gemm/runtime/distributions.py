"""What is installed, as its metadata says: of a name that is on ``sys.path`` twice, what Python imports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from email.parser import HeaderParser
from fnmatch import fnmatchcase
from importlib import metadata


def versions(*patterns: str) -> dict[str, str]:
    """Versions of installed distributions, by normalised name (``nvidia-cutlass-dsl``), sorted.

    Of several of one name the first on ``sys.path`` counts. What has no readable metadata, such as the rest
    that an interrupted installation leaves, does not count.

    Args:
        patterns: names, normalised, or shell patterns of them. What matches any is listed.
    """
    names = {name for name, _ in _described(metadata.distributions())}
    found = {}
    for name in sorted(each for each in names if any(fnmatchcase(each, pattern) for pattern in patterns)):
        # Looked up by the name of its folder: pip renames what it cannot remove, with the metadata in it.
        described = next(_described(metadata.distributions(name=name)), None)
        if described:
            found[name] = described[1]
    return found


def _described(distributions: Iterable[metadata.Distribution]) -> Iterator[tuple[str, str]]:
    """Normalised name and version of each that has both."""
    for each in distributions:
        # Not `each.name` and `each.version`: what they do without metadata differs from Python to Python.
        try:
            text = each.read_text("METADATA") or each.read_text("PKG-INFO") or ""
        except (OSError, ValueError):
            continue
        header = HeaderParser().parsestr(text)
        name, version = header["Name"], header["Version"]
        if name and version:
            yield re.sub(r"[-_.]+", "-", name).lower(), version
