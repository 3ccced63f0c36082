"""Kernels to be examined: found by their names, or where a user has put them, and compiled."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..plan import candidates
from ..plan.config import KernelConfig
from ..plan.limits import STATIC_SMEM
from ..plan.moe import MoeConfig, every_moe_config
from ..plan.quantizer import Quantizer, every_quantizer
from . import builder, inspection
from .builder import Program
from .inspection import InspectionError, KernelStats

_files: dict[Path, tuple[bytes, types.ModuleType]] = {}
"""Users' files as they were when they were executed: as long as they are so, that is done once."""


def examine(of: Program | KernelConfig) -> KernelStats:
    """Compiles the kernel of a program or a configuration, and reads what came out; needs no GPU.

    Raises:
        ImportError, RuntimeError, ValueError: as :func:`cute_gemm.runtime.cubin`.
        InspectionError: as :func:`inspection.read_cubin`.
    """
    return inspection.read_cubin(builder.cubin(of))


def shared_bytes(of: Program | KernelConfig) -> int:
    """Shared memory of a CTA: after :func:`examine`, of a program, what its kernel has asked for."""
    if isinstance(of, KernelConfig):
        return of.smem_bytes
    storage = getattr(of.kernel, "Storage", None)
    return of.config.smem_bytes if storage is None else STATIC_SMEM + storage.size_in_bytes()


def find_config(name: str) -> KernelConfig:
    """The candidate of a name, such as ``64x96_c1x2_s10_t2_pf_bf16``.

    Raises:
        InspectionError: there is none.
    """
    for config in (*candidates.every_config(), *candidates.every_row_scaled_config()):
        if config.name == name:
            return config
    raise InspectionError(f"no candidate is named {name}; `cute-gemm inspect` with a shape lists some")


def find_kernel(name: str) -> KernelConfig | Quantizer | MoeConfig:
    """The same, or a kernel that quantises, sorts or adds up rows, by its name.

    Raises:
        InspectionError: there is none.
    """
    for each in (*every_quantizer(), *every_moe_config()):
        if each.name == name:
            return each
    return find_config(name)


def find_program(where: str) -> Program | KernelConfig:
    """What ``module:attribute`` or ``file.py:attribute`` names.

    Args:
        where: of a program, a configuration, or a function that returns either when called with nothing.

    Raises:
        InspectionError: there is no such thing, it is something else, or it raises something.
    """
    found: Program | KernelConfig = find(where, (Program, KernelConfig), "a Program or a KernelConfig")
    return found


def find(where: str, kind: type | tuple[type, ...], wanted: str) -> Any:
    """The same of another kind, which ``wanted`` names."""
    place, _, attribute = where.rpartition(":")
    if not place:
        raise InspectionError(f"want module:attribute or file.py:attribute, got {where}")
    found: Any = _module(place)
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise InspectionError(f"{place} has no {attribute}")
        found = getattr(found, name)
    if isinstance(found, types.FunctionType):
        found = _as_asked(found, f"call {where}")
    if not isinstance(found, kind):
        raise InspectionError(f"{where} is of type {type(found).__name__}; want {wanted}")
    return found


def _module(place: str) -> types.ModuleType:
    """A module by its name, or from its file."""
    return _as_asked(lambda: _imported(place), f"import {place}")


def _imported(place: str) -> types.ModuleType:
    if not place.endswith(".py"):
        if place not in sys.modules:
            # As for `python -m`: an installed command does not look in the current directory.
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(place)
    path = Path(place).resolve()
    content = path.read_bytes()
    known = _files.get(path)
    if known is None or known[0] != content:
        known = _files[path] = content, _executed(path)
    return known[1]


def _executed(path: Path) -> types.ModuleType:
    # By a name that is no other module's.
    spec = importlib.util.spec_from_file_location(f"_inspected_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    # As for a script, what lies beside it can be imported.
    sys.path.insert(0, str(path.parent))
    spec.loader.exec_module(module)
    return module


def _as_asked(run: Callable[[], Any], what: str) -> Any:
    """Runs code of the user's, which may raise anything, or want to leave.

    Raises:
        InspectionError: it did.
    """
    try:
        return run()
    except (Exception, SystemExit) as error:
        raise InspectionError(f"cannot {what}: {type(error).__name__}: {error}") from error
