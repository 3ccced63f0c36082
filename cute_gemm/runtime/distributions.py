"""What is installed, as its metadata says: of a name that is on ``sys.path`` twice, what Python imports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
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
        # Not by a parser of e-mail, which takes 20 ms for a hundred of them.
        header = _END_OF_HEADER.split(text, 1)[0]
        name, version = (pattern.search(header) for pattern in (_NAME, _VERSION))
        if name and version:
            yield re.sub(r"[-_.]+", "-", name[1]).lower(), version[1]
