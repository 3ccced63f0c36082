"""From a configuration to what the DSL compiles: a kernel object, and symbolic arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..plan.config import KernelConfig
from ..plan.layouts import Layout, resolve
from . import compiler


@dataclass(frozen=True)
class Program:
    """What is compiled into one kernel instance.

    Args:
        config: what it was built for.
        kernel: a ``@cute.jit`` callable, such as :class:`cute_gemm.kernels.gemm_fp8_1d2d.GemmFp8`.
        arguments: symbolic ones, which say what is known of a call's when it is compiled.
    """

    config: KernelConfig
    kernel: Callable[..., Any]
    arguments: tuple[Any, ...]


def build(config: KernelConfig) -> Program:
    """The kernel and symbolic arguments of a configuration: extents and strides arrive with a call."""
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_stream

    from ..kernels.gemm_fp8_1d2d import Fp8Gemm1D2D

    out_dtype = {"bfloat16": cutlass.BFloat16, "float32": cutlass.Float32}[config.out_dtype]
    scheduler = resolve(config.layout.scheduler(config))
    store = resolve(config.layout.store(config)).of(config, out_dtype)
    kernel = Fp8Gemm1D2D(config, scheduler, store)
    m, n, k, k_blocks, n_blocks, groups = (cute.sym_int32() for _ in range(6))
    groups_of_a = (groups,) if config.layout.has_matrix_per_group else ()
    groups_of_b = (groups,) if config.layout.is_grouped else ()
    scales_of_a = _tma_scales if config.tma_scales else _scales
    operands = (
        _matrix(cutlass.Float8E4M3FN, *groups_of_a, m, k),
        scales_of_a(*groups_of_a, m, k_blocks),
        _matrix(cutlass.Float8E4M3FN, *groups_of_b, n, k),
        _scales(*groups_of_b, n_blocks, k_blocks),
        _matrix(out_dtype, *groups_of_a, m, n),
    )
    # num_sms, flags, semaphore and status of GemmFp8.__call__.
    launch = cutlass.Int32(0), cutlass.Int32(0), cutlass.Int64(0), cutlass.Int64(0)
    stream = make_fake_stream(use_tvm_ffi_env_stream=True)
    grouping = _grouping(config.layout, m, groups)
    return Program(config, kernel, (*operands, *launch, stream, *grouping))


def instance(config: KernelConfig) -> Callable[..., None]:
    """The kernel of ``config``, to be called as ``(a, sa, b, sb, out, *launch options, *grouping)``."""
    return compiler.instance(("Fp8Gemm1D2D", config), lambda: _to_compile(config), config.name)


def cubin(config: KernelConfig) -> bytes:
    """The GPU code of the kernel of ``config``, for inspection; needs no GPU."""
    return compiler.compile_to_cubin(lambda: _to_compile(config), config.name)


def _to_compile(config: KernelConfig) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    program = build(config)
    return program.kernel, program.arguments


def _matrix(dtype: Any, *shape: Any) -> Any:
    """Rows that TMA reads or writes: contiguous, on 16 bytes."""
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    strides = (cute.sym_int64(divisibility=16 * 8 // dtype.width) for _ in shape[1:])
    return make_fake_tensor(dtype, shape, (*strides, 1), assumed_align=16)


def _scales(*shape: Any) -> Any:
    """Scales of any strides."""
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    strides = tuple(cute.sym_int64() for _ in shape)
    return make_fake_tensor(cutlass.Float32, shape, strides, assumed_align=4)


def _tma_scales(*shape: Any) -> Any:
    """M-major scales that TMA reads."""
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    *matrices, along_k = (cute.sym_int64(divisibility=4) for _ in shape[1:])
    return make_fake_tensor(cutlass.Float32, shape, (*matrices, 1, along_k), assumed_align=16)


def _grouping(layout: Layout, m: Any, groups: Any) -> tuple[Any, ...]:
    """What says which rows are whose."""
    import cutlass
    from cutlass.cute.runtime import make_fake_tensor

    if layout.index is None:
        return ()
    extent = {"M": m, "G": groups}[layout.index.axis]
    index = make_fake_tensor(cutlass.Int32, (extent,), (1,), assumed_align=4)
    if layout.gives_count_to_kernel:
        return index, cutlass.Int32(1)
    return (index,)
