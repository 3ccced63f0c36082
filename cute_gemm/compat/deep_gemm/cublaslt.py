"""Products by cuBLASLt, which torch calls: of bf16, or of e4m3 without scales."""

from __future__ import annotations

import torch
from torch import Tensor

from ...contract import ambient

_FP8_MULTIPLE = 16
"""What extents of FP8 are a multiple of there."""


def cublaslt_gemm_nt(a: Tensor, b: Tensor, d: Tensor, c: Tensor | None = None) -> None:
    """`D = A @ B.T`, or `C + A @ B.T`, summed in FP32.

    Args:
        a, b: `[M, K]` and `[N, K]`, both bf16 or both e4m3, any strides.
        d: where to write, bf16 or FP32 `[M, N]`.
        c: what is added, of its shape and dtype; it may be `d`.

    Raises:
        TypeError: another dtype.
        ValueError: shapes that do not fit.
    """
    _require(a, b, d, c)
    with torch.no_grad(), ambient.no_autocast(a.device):
        if a.dtype is torch.bfloat16 and d.dtype is torch.bfloat16:
            # The sum with C is rounded once.
            torch.mm(a, b.mT, out=d) if c is None else torch.addmm(c, a, b.mT, out=d)
            return
        if c is None:
            d.copy_(_product(a, b.mT, d.dtype))
        else:
            d.copy_(c + _product(a, b.mT, torch.float32))


def cublaslt_gemm_nn(a: Tensor, b: Tensor, d: Tensor, c: Tensor | None = None) -> None:
    """As :func:`cublaslt_gemm_nt`, of a `b` that is `[K, N]`."""
    cublaslt_gemm_nt(a, b.mT, d, c)


def cublaslt_gemm_tn(a: Tensor, b: Tensor, d: Tensor, c: Tensor | None = None) -> None:
    """As :func:`cublaslt_gemm_nt`, of `a` that is `[K, M]` and `b` that is `[K, N]`."""
    cublaslt_gemm_nt(a.mT, b.mT, d, c)


def cublaslt_gemm_tt(a: Tensor, b: Tensor, d: Tensor, c: Tensor | None = None) -> None:
    """As :func:`cublaslt_gemm_nt`, of an `a` that is `[K, M]`."""
    cublaslt_gemm_nt(a.mT, b, d, c)


def _require(a: Tensor, b: Tensor, d: Tensor, c: Tensor | None) -> None:
    if a.dtype is not b.dtype or a.dtype not in (torch.bfloat16, torch.float8_e4m3fn):
        raise TypeError(f"a has dtype {a.dtype}, b {b.dtype}; wanted bf16 of both, or e4m3 of both")
    if d.dtype not in (torch.bfloat16, torch.float32):
        raise TypeError(f"d has dtype {d.dtype}; wanted torch.bfloat16 or torch.float32")
    if c is not None and c.dtype is not d.dtype:
        raise TypeError(f"c has dtype {c.dtype}; wanted {d.dtype}, as d has it")
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"a has shape {tuple(a.shape)}, b {tuple(b.shape)}; wanted [M, K] and [N, K]")
    for name, x in {"d": d, "c": c}.items():
        if x is not None and tuple(x.shape) != (a.shape[0], b.shape[0]):
            raise ValueError(f"{name} has shape {tuple(x.shape)}; wanted {(a.shape[0], b.shape[0])}")


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """`A @ B`, summed in FP32, of a dtype."""
    if a.is_cuda and a.dtype is torch.float8_e4m3fn and _suits_fp8(a, b):
        functional = torch.nn.functional
        one = torch.ones((), device=a.device)
        whole = functional.ScalingType.TensorWise
        return functional.scaled_mm(a, b, one, whole, one, whole, output_dtype=dtype, use_fast_accum=False)
    if a.is_cuda and a.dtype is torch.bfloat16:
        return torch.mm(a, b, out_dtype=dtype)
    # bf16 holds e4m3 exactly, and FP32 either; torch has no product of e4m3 everywhere.
    return (a.to(torch.float32) @ b.to(torch.float32)).to(dtype)


def _suits_fp8(a: Tensor, b: Tensor) -> bool:
    is_there = hasattr(torch.nn.functional, "scaled_mm")
    fits = all(extent and extent % _FP8_MULTIPLE == 0 for extent in (*a.shape[1:], *b.shape))
    return is_there and fits and a.stride(1) == 1 and b.stride(0) == 1
