"""Names and arguments of early 2025, which older servers still call."""

from __future__ import annotations

from torch import Tensor

from .products import (
    Pair,
    fp8_gemm_nt,
    m_grouped_fp8_gemm_nt_contiguous,
    m_grouped_fp8_gemm_nt_masked,
)


def gemm_fp8_fp8_bf16_nt(lhs: Pair, rhs: Pair, out: Tensor) -> None:
    """As :func:`fp8_gemm_nt`."""
    fp8_gemm_nt(lhs, rhs, out)


def m_grouped_gemm_fp8_fp8_bf16_nt_contiguous(lhs: Pair, rhs: Pair, out: Tensor, m_indices: Tensor) -> None:
    """As :func:`m_grouped_fp8_gemm_nt_contiguous`."""
    m_grouped_fp8_gemm_nt_contiguous(lhs, rhs, out, m_indices)


def m_grouped_gemm_fp8_fp8_bf16_nt_masked(
    lhs: Pair, rhs: Pair, out: Tensor, masked_m: Tensor, expected_m: int
) -> None:
    """As :func:`m_grouped_fp8_gemm_nt_masked`."""
    m_grouped_fp8_gemm_nt_masked(lhs, rhs, out, masked_m, expected_m)
