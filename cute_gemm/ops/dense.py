"""One product: what it promises."""

from __future__ import annotations

from typing import Any, overload

import torch
from torch import Tensor

from ..contract import operands, result
from ..epilogue import builtin
from ..epilogue.chain import Epilogue, QuantizingEpilogue
from ..plan.layouts import DENSE
from ..plan.recipe import FP8_1D2D
from . import epilogued
from .road import run

_ACCUMULATE = builtin.accumulate()


@overload
def fp8_gemm_nt(  # type: ignore[overload-overlap]
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    /,
    out: tuple[Tensor | None, Tensor | None] | None = None,
    *,
    out_dtype: torch.dtype = ...,
    epilogue: QuantizingEpilogue,
) -> tuple[Tensor, Tensor]: ...


@overload
def fp8_gemm_nt(
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    /,
    out: Tensor | None = None,
    *,
    out_dtype: torch.dtype = ...,
    epilogue: Epilogue | None = None,
    accumulate: bool = False,
) -> Tensor: ...


def fp8_gemm_nt(
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    /,
    out: Any = None,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
    epilogue: Epilogue | None = None,
    accumulate: bool = False,
) -> Any:
    """`D = A @ B.T` of FP8 matrices with fine-grained scales, accumulated in FP32.

    `D[m, n]` is the sum over k of `a[m, k] * sa[m, k // 128] * b[n, k] * sb[n // 128, k // 128]`. Tensor
    cores sum 128 products along K; each such part is then scaled and added up in FP32 (DeepSeek-V3 technical
    report, arXiv:2412.19437, section 3.3). Where each row of B has scales of its own, the last factor is
    `sb[n, k // 128]`: gradients of weights are such products of two activations.

    Args:
        lhs: the pair `(a, sa)`. `a` is A, torch.float8_e4m3fn `[M, K]`; `sa` its scales, torch.float32
            `[M, ceil(K / 128)]`. :func:`cute_gemm.quantize_1x128` makes both.
        rhs: the pair `(b, sb)`. `b` is B, torch.float8_e4m3fn `[N, K]`; `sb` its scales, torch.float32
            `[ceil(N / 128), ceil(K / 128)]`. :func:`cute_gemm.quantize_128x128` makes both. Or `[N,
            ceil(K / 128)]`, as :func:`cute_gemm.quantize_1x128` makes it; the shape says which.
        out: where to write D, torch.bfloat16 or torch.float32 `[M, N]`; None allocates it. It may be a view
            into a buffer that holds inputs too, as long as it shares no element with them.
        out_dtype: torch.bfloat16 or torch.float32, the type of an allocated result. A given `out` decides by
            its own dtype; torch.float32 beside an `out` of bfloat16 is an error, as the result would be
            rounded.
        epilogue: what becomes of D before it is rounded and stored, of :mod:`cute_gemm.epilogue`; None for
            nothing. Where it makes one column of two, D and `out` have half as many. Where it quantises, the
            result is a pair of torch.float8_e4m3fn and torch.float32 scales `[M, ceil(columns / 128)]`, and
            so is `out`, of which either may be None; columns are a multiple of 16 then. Not where each row of
            B has scales.
        accumulate: add the product to what `out` holds, each element once, as
            :func:`cute_gemm.epilogue.accumulate` does. Where each row of B has scales, `out` is
            torch.float32.

    M is any size, N a multiple of 8, K a multiple of 16 (a last k-block may be partial). With K = 0 the
    sums are zero; with M = 0 or N = 0 there is nothing to do. Dimensions are at most 2^31 - 1024.

    The last dimension of a, b and out is contiguous (stride 1). Rows may be further apart: the row stride is
    a multiple of 16 bytes, at least the length of a row (so rows that `expand` repeats are refused) and below
    2^40 bytes; it does not matter for a single row. a, b and out start at a multiple of 16 bytes. Scales may
    have any strides: row-major, column-major, padded and broadcast (stride 0) ones are read in place. Those
    of A that are M-major, at an address and with strides that are multiples of 16 bytes, as
    `cute_gemm.m_major` makes them, may take another kernel, which loads them by TMA and gives the same bits.
    Where each row of B has scales, both are wanted so; others are copied first.

    All tensors are on one device. On a Hopper GPU the call launches on the current stream of that device, be
    it the current device or not, and returns without waiting. A call that needs a kernel which no call before
    it did compiles that in seconds, or finds it on disk, where :func:`cute_gemm.warmup` puts it; sizes are
    arguments of a kernel, so few are needed.
    A kernel's first call in a process must not be within the capture of a CUDA graph: make the same call,
    with scales laid out alike, once before. On the CPU the same rules hold, and :mod:`cute_gemm.reference`
    computes the result in plain torch.

    What torch or the caller has set around a call, such as autocast, a default dtype or deterministic mode,
    changes no result, or the call is refused: docs/contract.md says which.

    Returns:
        `out`, the very tensor, if given; else a new contiguous tensor. Where `epilogue` quantises, a pair.

    Raises:
        TypeError: an argument is no tensor (or no pair of them), or has a dtype other than the above.
        ValueError: a shape, stride, address, device or overlap outside the above; a derivative is wanted,
            which this operation does not compute; or :func:`cute_gemm.config` asks for more multiprocessors
            than the device has.
        RuntimeError: the tensors are on a GPU other than Hopper; a CUDA graph is being captured, and this
            kernel was not called before on this device; or it is not compiled, and calls are not to compile
            (``jit`` of :func:`cute_gemm.config`).

    When it raises one of these, `out` is as it was.
    """
    if epilogue is not None:
        result.require_no_epilogue(accumulate)
        return epilogued.run(DENSE, lhs, rhs, out, out_dtype, None, 0, epilogue)
    if accumulate is True and operands.recipe_of(rhs) is FP8_1D2D:
        return accumulated(lhs, rhs, out, out_dtype)
    return run(DENSE, lhs, rhs, out, out_dtype, accumulate=accumulate)


def accumulated(
    lhs: tuple[Tensor, Tensor], rhs: tuple[Tensor, Tensor], out: Tensor | None, out_dtype: torch.dtype
) -> Tensor:
    """A product by blocks of 128x128 of B, added to `out`: by an epilogue, which serves bfloat16 as well."""
    added: Tensor = epilogued.run(DENSE, lhs, rhs, out, out_dtype, None, 0, _ACCUMULATE)
    return added
