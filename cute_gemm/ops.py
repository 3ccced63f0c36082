"""The public operations: what each promises, and the way from tensors to a result."""

from __future__ import annotations

import functools
from types import ModuleType

import torch
from torch import Tensor

from . import checks, hardware, reference


def fp8_gemm_nt(
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    /,
    out: Tensor | None = None,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """`D = A @ B.T` of FP8 matrices with fine-grained scales, accumulated in FP32.

    `D[m, n]` is the sum over k of `a[m, k] * sa[m, k // 128] * b[n, k] * sb[n // 128, k // 128]`. Tensor
    cores sum 128 products along K; each such part is then scaled and added up in FP32 (DeepSeek-V3 technical
    report, arXiv:2412.19437, section 3.3).

    Args:
        lhs: the pair `(a, sa)`. `a` is A, torch.float8_e4m3fn `[M, K]`; `sa` its scales, torch.float32
            `[M, ceil(K / 128)]`. :func:`cute_gemm.quantize_1x128` makes both.
        rhs: the pair `(b, sb)`. `b` is B, torch.float8_e4m3fn `[N, K]`; `sb` its scales, torch.float32
            `[ceil(N / 128), ceil(K / 128)]`. :func:`cute_gemm.quantize_128x128` makes both.
        out: where to write D, torch.bfloat16 or torch.float32 `[M, N]`; None allocates it. It may be a view
            into a buffer that holds inputs too, as long as it shares no element with them.
        out_dtype: torch.bfloat16 or torch.float32, the type of an allocated result. A given `out` decides by
            its own dtype; torch.float32 beside an `out` of bfloat16 is an error, as the result would be
            rounded.

    M is any size, N a multiple of 8, K a multiple of 16 (a last k-block may be partial). With K = 0 the
    result is zero; with M = 0 or N = 0 there is nothing to do. Dimensions are at most 2^31 - 1024.

    The last dimension of a, b and out is contiguous (stride 1). Rows may be further apart: the row stride is
    a multiple of 16 bytes, at least the length of a row (so rows that `expand` repeats are refused) and below
    2^40 bytes; it does not matter for a single row. a, b and out start at a multiple of 16 bytes. Scales may
    have any strides: row-major, column-major, padded and broadcast (stride 0) ones are read in place.

    All tensors are on one device. On a Hopper GPU the call launches on the current stream of that device, be
    it the current device or not, and returns without waiting. A call that needs a kernel which no call before
    it did compiles that in seconds, or finds it on disk; sizes are arguments of a kernel, so few are needed.
    A kernel's first call in a process must not be within the capture of a CUDA graph. On the CPU the same
    rules hold, and :mod:`cute_gemm.reference` computes the result in plain torch.

    Returns:
        `out`, the very tensor, if given; else a new contiguous tensor.

    Raises:
        TypeError: an argument is no tensor (or no pair of them), or has a dtype other than the above.
        ValueError: a shape, stride, address, device or overlap outside the above; or a gradient is wanted,
            which this operation does not compute.
        RuntimeError: the tensors are on a GPU other than Hopper; or a CUDA graph is being captured, and this
            kernel was not called before on this device.

    When it raises one of these, `out` is as it was.
    """
    a, sa, b, sb, m, n, k = checks.dense(lhs, rhs, out, out_dtype)
    if m == 0 or n == 0 or k == 0:
        return torch.zeros((m, n), dtype=out_dtype, device=a.device) if out is None else _fill(out, 0)
    if a.is_cpu:
        product = reference.fp8_gemm_nt(a, sa, b, sb, out_dtype if out is None else out.dtype)
        return product if out is None else _fill(out, product)

    result = a.new_empty((m, n), dtype=out_dtype) if out is None else out
    _launch(a.get_device(), a, sa, b, sb, result)
    if out is not None:
        # Autograd would not notice otherwise that something it saved has changed.
        torch.autograd.graph.increment_version(out)
    return result


def _launch(index: int, a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, out: Tensor) -> None:
    """Launches a kernel on CUDA device `index`, where the tensors are; they are checked and not empty."""
    kernels = _kernels(index)
    if a.shape[0] == 1:
        a, out = _single_row(a), _single_row(out)
    # The guard costs microseconds and asking for the current device one: with one device neither is needed.
    if _has_one_device() or index == torch.cuda.current_device():
        kernels.fp8_gemm_nt(a, sa, b, sb, out)
    else:
        with torch.cuda.device(index):
            kernels.fp8_gemm_nt(a, sa, b, sb, out)


def _fill(out: Tensor, value: Tensor | int) -> Tensor:
    """Writes into `out` as a kernel does: also outside of the inference_mode that `out` was made under."""
    with torch.inference_mode():
        out[:] = value
    return out


@functools.cache
def _has_one_device() -> bool:
    return torch.cuda.device_count() == 1


@functools.cache
def _kernels(index: int) -> ModuleType:
    """The module that launches kernels, for CUDA device `index`; the first call takes seconds to import it.

    Raises:
        RuntimeError: that device cannot run them. Only success is remembered.
    """
    if not hardware.is_hopper(index):
        raise RuntimeError(
            f"the tensors are on cuda:{index}, which is {hardware.describe(index)}; wanted a Hopper GPU, "
            "compute capability 9.0, such as H100, H200 or H20. The same call with CPU tensors (`a.cpu()`, "
            "...) runs in plain torch"
        )
    from . import dispatch

    return dispatch


def _single_row(x: Tensor) -> Tensor:
    """The same row with a stride that a tensor map can hold: torch lets a single row have any."""
    columns = x.shape[1]
    return x if x.stride(0) == columns else x.as_strided((1, columns), (columns, 1))
