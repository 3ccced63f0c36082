"""What of a CPU the host code of kernels may use: what all CPUs have that a Hopper GPU sits beside.

The DSL's own choice is the machine that compiles. Objects of it would serve no other kind of CPU.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, NamedTuple

_MOST_OF_A_CPU = 16384
"""Bytes that describe the first of all CPUs, in ``/proc/cpuinfo``."""


class HostLevel(NamedTuple):
    """A level of instructions.

    Args:
        name: of the level.
        cpu, features: as LLVM names it, and what it has beyond the oldest of its kind.
        flags: what Linux says of a CPU that has it.
    """

    name: str
    cpu: str
    features: tuple[str, ...]
    flags: frozenset[str]


LEVELS = {
    "x86_64": HostLevel(
        "x86-64-v2",
        "x86-64-v2",
        ("+cx16", "+popcnt", "+sahf", "+sse4.2"),
        frozenset({"cx16", "lahf_lm", "popcnt", "sse4_2", "ssse3"}),
    ),
    "aarch64": HostLevel("armv8-a", "generic", ("+fp-armv8", "+neon"), frozenset({"asimd", "fp"})),
}
"""By what :func:`platform.machine` says."""


def here() -> HostLevel | None:
    """The level that this machine compiles for; None if it is of a sort that is not known."""
    return LEVELS.get(platform.machine())


def why_unfit(name: str) -> str:
    """Why this CPU does not run host code of a level; empty if it does."""
    level = here()
    if level is None or level.name != name:
        return f"it is for {name}, and this CPU is {platform.machine()}"
    try:
        with Path("/proc/cpuinfo").open() as file:
            lines = file.read(_MOST_OF_A_CPU).splitlines()
    except OSError:
        return ""
    said = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    missing = level.flags - set(said.split())
    return f"this CPU lacks {', '.join(sorted(missing))} of {name}" if said and missing else ""


def restrict(module: Any) -> None:
    """Has the host code of an MLIR module be made for the level, and not for the CPU that compiles.

    Args:
        module: in LLVM's dialect.
    """
    level = here()
    if level is None:
        return
    from cutlass._mlir import ir

    with module.context:
        cpu = ir.StringAttr.get(level.cpu)
        listed = ", ".join(f'"{feature}"' for feature in level.features)
        features = ir.Attribute.parse(f"#llvm.target_features<[{listed}]>")
        for operation in module.body.operations:
            if operation.operation.name == "llvm.func" and operation.regions[0].blocks:
                operation.attributes["target_cpu"] = cpu
                operation.attributes["target_features"] = features
