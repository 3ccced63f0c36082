"""How much memory there is: Linux lends more than it has, and kills whoever then uses it."""

from __future__ import annotations

import math
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
# Of each version: the folder, which within a container is that of its own group, its limit and its use.
_CGROUPS = [
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
]
_OF_FILES = "inactive_file", "active_file"


def available_bytes() -> float:
    """What this process can still be given, of the machine and of its container; infinite if nothing says."""
    return min(_of_machine(), *(_of_group(*each) for each in _CGROUPS))


def in_gib(size: float) -> str:
    """``"1,234.5 GiB"``."""
    return f"{size / 2**30:,.1f} GiB"


def _of_machine() -> float:
    try:
        lines = _MEMINFO.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return math.inf


def _of_group(folder: Path, limit: str, usage: str) -> float:
    """What a group may still take; pages of files do not count as taken, as it would give them back."""
    try:
        left = int((folder / limit).read_text()) - int((folder / usage).read_text())
    # "max" is no number: there is no limit.
    except (OSError, ValueError):
        return math.inf
    try:
        numbers = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, left + sum(int(numbers[name]) for name in _OF_FILES))
    except (OSError, ValueError, KeyError):
        return max(0, left)
