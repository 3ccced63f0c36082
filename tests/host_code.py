"""What the host code of kernels beside products says of a call's tensors, on a machine without a GPU."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import cutlass
import pytest
from cutlass import cute
from cutlass.cute import runtime as dsl

from cute_gemm.plan.moe import MoeConfig
from cute_gemm.plan.quantizer import Quantizer
from cute_gemm.runtime import compiler, quantizer_builder


@functools.cache
def host_code(config: Quantizer | MoeConfig) -> Callable[..., None]:
    """That of a kernel, without the launch; a number takes the place of a stream, which a CPU has not."""

    def make() -> Any:
        on_the_host = functools.partial(dsl.make_fake_tensor, memspace=cute.AddressSpace.generic)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dsl, "make_fake_tensor", on_the_host)
            patch.setattr(dsl, "make_fake_stream", lambda **_: cutlass.Int64(0))
            kernel, arguments = quantizer_builder.build(config)
        kernel.__class__ = type("HostCode", (type(kernel),), {"start": lambda *_, **__: None, "kernel": None})
        return kernel, arguments

    return compiler.instance(("host code", config), make, "host code")


def holds(config: Quantizer | MoeConfig, arguments: tuple[Any, ...], behind: tuple[Any, ...] = ()) -> bool:
    """What the host code reports; False where its argument checks raise before that."""
    status = ctypes.c_int32(-1)
    try:
        host_code(config)(*arguments, 0, ctypes.addressof(status), 0, *behind)
    except (TypeError, ValueError, RuntimeError):
        return False
    assert status.value in (0, 1), "nothing was reported"
    return bool(status.value)
