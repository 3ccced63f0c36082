"""What tests of compiled code share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch
from calls import Arguments
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cute_gemm.ops import library

HAS_COMPILER = any(shutil.which(name) for name in ("g++", "clang++"))


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
