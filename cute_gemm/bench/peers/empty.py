"""What a kernel takes that does nothing: the launch, which few rows cannot be quantised faster than."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...measure.calls import Call
from ...measure.quantizing import QuantizerCase
from ...measure.records import CHAIN, EMPTY
from ...runtime import compiler
from . import why_no_cuda


class Empty:
    """A kernel of the DSL with one warp, launched dependently, as a quantiser is, or not."""

    name = "empty"
    regimes = (CHAIN,)

    def available(self) -> str | None:
        return why_no_cuda()

    def versions(self) -> dict[str, str]:
        return {}

    def calls(self, case: QuantizerCase) -> Sequence[Call]:
        at = torch.zeros(1, device=case.sources["x"].device)
        return [_call(at, pdl) for pdl in (True, False)]


def _call(at: Tensor, pdl: bool) -> Call:
    launch = functools.partial(kernel(), at, int(pdl))

    def run() -> Tensor:
        launch()
        return at

    # It says which device is meant, and is not written.
    return Call(EMPTY, run, lambda _: 0.0, config="dependent launch" if pdl else None)


@functools.cache
def kernel() -> Callable[..., None]:
    """Takes a tensor of the device, and whether it is launched dependently."""
    return compiler.instance(("Empty",), build, "empty")


def build() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """What is compiled."""
    import cutlass
    from cutlass.cute.runtime import make_fake_compact_tensor, make_fake_stream

    from .empty_kernel import EmptyKernel

    at = make_fake_compact_tensor(cutlass.Float32, (1,))
    return EmptyKernel(), (at, cutlass.Int32(0), make_fake_stream(use_tvm_ffi_env_stream=True))
