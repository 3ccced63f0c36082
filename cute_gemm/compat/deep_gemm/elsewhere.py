"""On GPUs other than Hopper: a real DeepGEMM, to which calls are handed over.

It is the one in the folder that ``CUTE_GEMM_DEEP_GEMM_DIR`` names, else the one that vLLM has with it. It is
looked for by the first call with tensors on such a GPU, and never on a Hopper GPU.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import operator
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ...runtime import hardware

DIRECTORY_VARIABLE = "CUTE_GEMM_DEEP_GEMM_DIR"
"""Names the folder `deep_gemm` of a real one, which has an `__init__.py`."""

_VENDORED = "vllm.third_party.deep_gemm"
_NAMED = "_cute_gemm_named_deep_gemm"

_Function = TypeVar("_Function", bound=Callable[..., Any])

_of_devices: dict[int, ModuleType | None] = {-1: None}
"""For each CUDA device that was asked for, by number, the module for it; None for this one. CPU is -1."""

_lock = threading.RLock()
"""Of the import of a named one: to another thread it is there when all of it is."""

_told: dict[str, tuple[Any, ...]] = {}
"""The last call of each setter: what is loaded later is told, too."""


def hands_over(function: _Function) -> _Function:
    """A function that calls the one of its name in another DeepGEMM, where its tensors are for that.

    Code that `torch.compile` traces is not looked at: there it is the function itself.
    """
    find = operator.attrgetter(function.__qualname__)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        other = None if torch.compiler.is_compiling() else _for(args, kwargs)
        return (function if other is None else find(other))(*args, **kwargs)

    return cast(_Function, call)


def of_current_device() -> ModuleType | None:
    """The module for the current CUDA device, None for this one, also where there is no GPU."""
    return _of_device(torch.cuda.current_device() if torch.cuda.is_available() else -1)


def tell(setter: str, *values: Any) -> None:
    """Calls a setter of the other module, too, as soon as there is one, if it has it."""
    _told[setter] = values
    for other in list(_of_devices.values()):
        if other is not None:
            _tell(other, setter)


def _for(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModuleType | None:
    """By the first tensor among arguments, or in a pair of them; where there is none, the current device."""
    for x in (*args, *kwargs.values()):
        if isinstance(x, (tuple, list)) and x:
            x = x[0]
        if isinstance(x, Tensor):
            return _of_device(x.get_device() if x.is_cuda else -1)
    return of_current_device()


def _of_device(index: int) -> ModuleType | None:
    if index not in _of_devices:
        # Fake tensors may be on a GPU where there is none.
        is_ours = not torch.cuda.is_available() or hardware.is_hopper(index)
        _of_devices[index] = None if is_ours else _other(index)
    return _of_devices[index]


def _other(index: int) -> ModuleType:
    directory = os.environ.get(DIRECTORY_VARIABLE)
    try:
        other = _named(Path(directory)) if directory else importlib.import_module(_VENDORED)
    # An extension module that does not fit raises whatever it likes.
    except Exception as error:
        looked = f"{directory}, which {DIRECTORY_VARIABLE} names" if directory else _VENDORED
        raise RuntimeError(
            f"cuda:{index} is {hardware.describe(index)}, but cute_gemm computes on Hopper GPUs, and there "
            f"is no DeepGEMM to hand the call over to: {looked}, cannot be imported ({type(error).__name__}: "
            f"{error}); wanted {DIRECTORY_VARIABLE}, the folder `deep_gemm` of a real one"
        ) from error
    for setter in _told:
        _tell(other, setter)
    return other


def _named(folder: Path) -> ModuleType:
    """The package in a folder, under a name of its own, as this one may have its name."""
    with _lock:
        return sys.modules[_NAMED] if _NAMED in sys.modules else _executed(folder)


def _executed(folder: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(
        _NAMED, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if specification is None or specification.loader is None:
        raise ImportError(f"{folder} is no package")
    module = importlib.util.module_from_spec(specification)
    sys.modules[_NAMED] = module
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[_NAMED]
        raise
    return module


def _tell(other: ModuleType, setter: str) -> None:
    if hasattr(other, setter):
        getattr(other, setter)(*_told[setter])
