"""What tests of compiled code share."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Callable
from typing import Any

import torch
from calls import Arguments
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cute_gemm.ops import library

HAS_COMPILER = any(shutil.which(name) for name in ("g++", "clang++"))

if HAS_COMPILER and importlib.util.find_spec("setuptools"):
    # Inductor imports it, and it replaces `distutils` then: here, before any test has changed anything.
    importlib.import_module("setuptools")


def compiled(function: Callable[..., Any], backend: Any = "aot_eager", **options: Any) -> Callable[..., Any]:
    return torch.compile(function, backend=backend, fullgraph=True, **options)


def tensors(given: Arguments) -> tuple[Tensor, ...]:
    return given.a, given.sa, given.b, given.sb


def grouping(given: Arguments) -> tuple[Any, ...]:
    """What an op takes behind the operands, or behind `out`."""
    if given.index is None:
        return ()
    return (given.index,) if given.layout.count is None else (given.index, given.count)


class Seen(TorchDispatchMode):
    """Names of the library's ops that the dispatcher is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op.namespace == library.NAMESPACE:
            self.names.append(op._opname)
        return op(*args, **kwargs or {})
