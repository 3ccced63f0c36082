"""From a problem to a launched kernel: GemmProblem -> KernelConfig -> compiled instance."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import heuristics, jit
from .problem import GemmProblem, KernelConfig

_OUT_NAMES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}

_launched: set[tuple[KernelConfig, int]] = set()
"""Kernels, by configuration and device, that have been launched, so CUDA has loaded them."""


def fp8_gemm_nt(a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, out: Tensor) -> None:
    """Computes ``out = A @ B.T`` with scales on the current stream of the tensors' device.

    The tensors are checked and not empty; see :func:`cute_gemm.fp8_gemm_nt` for what they must be. Their
    device is the current one.

    Raises:
        RuntimeError: the stream is being captured into a CUDA graph, and the kernel has not been launched on
            this device before.
    """
    m, k = a.shape
    launch, num_sms = _launcher(m, b.shape[0], k, out.dtype, a.get_device())
    launch(a, sa, b, sb, out, num_sms)


def select(problem: GemmProblem) -> KernelConfig:
    """The configuration that runs ``problem``."""
    return heuristics.best(problem)


def instance(config: KernelConfig) -> Callable[..., None]:
    """The kernel of ``config``, ready to be called as ``(a, sa, b, sb, out, num_sms)``."""
    # With all that kernels derive from a configuration: `problem` is imported with the package, long before
    # its source is read for the key, so the source alone need not be what is in use.
    derived = [name for name, member in vars(KernelConfig).items() if isinstance(member, property)]
    values = tuple((name, getattr(config, name)) for name in derived)
    return jit.instance(("Fp8Gemm1D2D", config, values), lambda: _fp8_1d2d(config), config.name)


def cubin(config: KernelConfig) -> bytes:
    """The GPU code of the kernel of ``config``, for inspection; needs no GPU."""
    return jit.compile_to_cubin(lambda: _fp8_1d2d(config), config.name)


@functools.lru_cache(maxsize=65536)
def _launcher(m: int, n: int, k: int, out_dtype: torch.dtype, device: int) -> tuple[Callable[..., None], int]:
    """What to launch for a shape, and the device's multiprocessors: remembered, so whoever asks launches."""
    num_sms = torch.cuda.get_device_properties(device).multi_processor_count
    config = select(GemmProblem(m, n, k, _OUT_NAMES[out_dtype], num_sms))
    if (config, device) not in _launched and _is_capturing():
        raise RuntimeError(
            f"M = {m}, N = {n}, K = {k} needs the kernel {config.name}, which was not called on cuda:{device}"
            " before and cannot be loaded while a CUDA graph is captured; call fp8_gemm_nt with this shape "
            "once before the capture"
        )
    launch = instance(config)
    _launched.add((config, device))
    return launch, num_sms


def _is_capturing() -> bool:
    # A torch without CUDA raises when asked.
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _fp8_1d2d(config: KernelConfig) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The kernel and symbolic arguments to compile it for: all extents and strides arrive with a call."""
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_stream, make_fake_tensor

    from .kernels.fp8_1d2d import Fp8Gemm1D2D

    kernel = Fp8Gemm1D2D(config)
    m, n, k, k_blocks, n_blocks = (cute.sym_int32() for _ in range(5))

    def matrix(dtype: Any, rows: Any, columns: Any) -> Any:
        row_stride = cute.sym_int64(divisibility=16 * 8 // dtype.width)
        return make_fake_tensor(dtype, (rows, columns), (row_stride, 1), assumed_align=16)

    def scales(rows: Any) -> Any:
        return make_fake_tensor(
            cutlass.Float32, (rows, k_blocks), (cute.sym_int64(), cute.sym_int64()), assumed_align=4
        )

    a, b = matrix(cutlass.Float8E4M3FN, m, k), matrix(cutlass.Float8E4M3FN, n, k)
    arguments = a, scales(m), b, scales(n_blocks), matrix(kernel.out_dtype, m, n)
    stream = make_fake_stream(use_tvm_ffi_env_stream=True)
    return kernel, (*arguments, cutlass.Int32(0), stream)
