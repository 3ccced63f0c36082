"""Kernels that copy: one late, which lets others start long before; one at once, by dependent launch."""

from collections.abc import Callable
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.cute.runtime import make_fake_stream, make_fake_tensor

from cute_gemm.runtime import compiler

BLOCKS, THREADS = 8, 256
DELAY_NS = 100_000
"""Several times what it takes to call an operation, so that the next kernel is launched meanwhile."""


class CopyLate:
    """Copies ``source`` to ``target`` and ``result`` to ``log``, all int32, and leaves most SMs free."""

    @cute.jit
    def __call__(self, source, target, result, log, stream):
        self.kernel(source, target, result, log).launch(
            grid=(BLOCKS, 1, 1), block=(THREADS, 1, 1), stream=stream
        )

    @cute.kernel
    def kernel(self, source, target, result, log):
        cute.arch.griddepcontrol_launch_dependents()
        start = cute.arch.globaltimer()
        while cute.arch.globaltimer() - start < DELAY_NS:
            pass
        first = cute.arch.block_idx()[0] * THREADS + cute.arch.thread_idx()[0]
        for i in cutlass.range(first, source.shape[0], BLOCKS * THREADS, unroll=1):
            target[i] = source[i]
        for i in cutlass.range(first, result.shape[0], BLOCKS * THREADS, unroll=1):
            log[i] = result[i]


def build() -> Any:
    operand, result = cute.sym_int32(), cute.sym_int32()
    tensors = [
        make_fake_tensor(Int32, (size,), (1,), assumed_align=4) for size in (operand, operand, result, result)
    ]
    return CopyLate(), (*tensors, make_fake_stream(use_tvm_ffi_env_stream=True))


def copy_late() -> Callable[..., None]:
    """To be called as ``(source, target, result, log)``."""
    return compiler.instance(("CopyLate", BLOCKS, THREADS, DELAY_NS), build, "a late copy")


class CopyAtOnce:
    """Copies ``source`` to ``target``, both int32, as soon as the kernel ahead lets it start."""

    @cute.jit
    def __call__(self, source, target, stream):
        self.kernel(source, target).launch(
            grid=(BLOCKS, 1, 1), block=(THREADS, 1, 1), stream=stream, use_pdl=True
        )

    @cute.kernel
    def kernel(self, source, target):
        first = cute.arch.block_idx()[0] * THREADS + cute.arch.thread_idx()[0]
        for i in cutlass.range(first, source.shape[0], BLOCKS * THREADS, unroll=1):
            target[i] = source[i]


def copy_at_once() -> Callable[..., None]:
    """To be called as ``(source, target)``."""

    def build() -> Any:
        size = cute.sym_int32()
        tensors = [make_fake_tensor(Int32, (size,), (1,), assumed_align=4) for _ in range(2)]
        return CopyAtOnce(), (*tensors, make_fake_stream(use_tvm_ffi_env_stream=True))

    return compiler.instance(("CopyAtOnce", BLOCKS, THREADS), build, "a copy at once")
