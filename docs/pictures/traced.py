"""Static layouts of the DSL, evaluated on any machine as the compiler sees them for Hopper."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def traced(function: Callable[[], T]) -> T:
    """What a plain Python function gives that makes layouts of static shapes and asks them for offsets."""
    from cutlass import cute

    from cute_gemm.runtime.compiler import ARCH

    found: list[T] = []

    @cute.jit
    def trace() -> None:
        found.append(function())

    cute.compile(trace, options=f"--gpu-arch {ARCH}")
    return found[-1]
