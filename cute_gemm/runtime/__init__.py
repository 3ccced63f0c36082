"""From a configuration to a launched kernel: one road for every operation, and the way in for kernel authors.

Authors use the names in ``__all__`` (docs/kernels.md). Importing this module imports neither the DSL nor what
the names need; using them does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .builder import Program, build, cubin, instance
    from .compiler import KernelWarning
    from .inspection import InspectionError, KernelStats
    from .jit import NotCompiledError
    from .lookup import examine
    from .programs import launch

__all__ = [
    "InspectionError",
    "KernelStats",
    "KernelWarning",
    "NotCompiledError",
    "Program",
    "build",
    "cubin",
    "examine",
    "instance",
    "launch",
]

_HOMES = {
    "InspectionError": "inspection",
    "KernelStats": "inspection",
    "KernelWarning": "compiler",
    "NotCompiledError": "jit",
    "Program": "builder",
    "build": "builder",
    "cubin": "builder",
    "examine": "lookup",
    "instance": "builder",
    "launch": "programs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
