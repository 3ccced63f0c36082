"""How much memory there is: Linux lends more than it has, and kills whoever then uses it."""

from __future__ import annotations

import math
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = [
    # Within a container its own group is at the root.
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
]


def available_bytes() -> float:
    """What this process can still be given, of the machine and of its container; infinite if nothing says."""
    return min(_of_machine(), *(_of_group(limit, usage) for limit, usage in _CGROUPS))


def in_gib(size: float) -> str:
    """``"1,234.5 GiB"``."""
    return f"{size / 2**30:,.1f} GiB"


def _of_machine() -> float:
    try:
        lines = _MEMINFO.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return math.inf


def _of_group(limit: Path, usage: Path) -> float:
    """What a group may still take; pages of files, which it would give back, count as taken."""
    try:
        return max(0, int(limit.read_text()) - int(usage.read_text()))
    # "max" is no number: there is no limit.
    except (OSError, ValueError):
        return math.inf
