"""The inverses of quantising, and the layout of scales that TMA loads."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contract import ambient, memory, quantizing, words
from ..contract.quantizing import E4M3, SOURCE_DTYPES, scale_blocks
from ..plan.limits import SCALE_STRIDE_MULTIPLE, ceil_div
from ..plan.recipe import FP8_1D2D as RECIPE

_TARGET_DTYPES = (torch.float64, *SOURCE_DTYPES)


def dequantize_1x128(q: Tensor, s: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Inverse of `quantize_1x128`: ``q`` times its scales, in ``dtype``.

    Args:
        q: e4m3 ``[..., K]``.
        s: fp32 ``[..., ceil(K/128)]``, any strides.
        dtype: fp64 (exact), fp32, bf16 or fp16 (computed in fp32, then rounded).

    Returns:
        ``[..., K]`` of ``dtype``.

    Raises:
        TypeError: wrong dtype of ``q``, ``s`` or the result.
        ValueError: ``s`` does not have the shape that belongs to ``q``, or is on another device; one of them
            is sparse, nested, opaque, or without memory; or a derivative is wanted, which is not computed.
    """
    _require_quantized(q, s, dtype)
    if q.dim() == 0:
        raise ValueError("q has no dimension; wanted [..., K]")
    k = q.shape[-1]
    _require_scale_shape(q, s, (*q.shape[:-1], scale_blocks(k)))
    with ambient.no_autocast(q.device):
        return _times(q, s.repeat_interleave(RECIPE.scale_k, -1)[..., :k], dtype)


def dequantize_128x128(q: Tensor, s: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Inverse of `quantize_128x128`: ``q`` times its scales, in ``dtype``.

    Args:
        q: e4m3 ``[..., N, K]``.
        s: fp32 ``[..., ceil(N/128), ceil(K/128)]``, any strides.
        dtype: fp64 (exact), fp32, bf16 or fp16 (computed in fp32, then rounded).

    Returns:
        ``[..., N, K]`` of ``dtype``.

    Raises:
        TypeError: wrong dtype of ``q``, ``s`` or the result.
        ValueError: ``q`` has fewer than two dimensions; the others as by `dequantize_1x128`.
    """
    _require_quantized(q, s, dtype)
    if q.dim() < 2:
        raise ValueError(f"q has shape {tuple(q.shape)}; wanted [..., N, K]")
    n, k = q.shape[-2:]
    _require_scale_shape(q, s, (*q.shape[:-2], ceil_div(n, RECIPE.scale_n), scale_blocks(k)))
    with ambient.no_autocast(q.device):
        rows = s.repeat_interleave(RECIPE.scale_n, -2)[..., :n, :]
        return _times(q, rows.repeat_interleave(RECIPE.scale_k, -1)[..., :k], dtype)


def m_major(s: Tensor) -> Tensor:
    """Copy 1x128 scales into the M-major layout that TMA can load: M contiguous, k-blocks 16 bytes apart.

    DeepGEMM's users hold their scales in this layout. This library multiplies with it and with the row-major
    one, by no further kernel, so nobody has to call this before a multiplication. It is the faster one from
    128 rows on, where TMA loads it; with few rows and a short K the row-major one is (docs/performance.md, 45
    and 51).

    Args:
        s: fp32 ``[M, ceil(K/128)]``, or ``[G, capacity, ceil(K/128)]`` of the masked layout, any strides.

    Returns:
        The same values and shape, with strides ``(1, P)``, or ``(ceil(K/128) * P, 1, P)``, where P is M, or
        the capacity, rounded up to a multiple of 4 elements (16 bytes). What lies between is zero.

    Raises:
        TypeError: ``s`` is not an fp32 tensor.
        ValueError: ``s`` does not have two or three dimensions; it is sparse, nested, opaque, or without
            memory; or a derivative is wanted, which is not computed.
    """
    quantizing.require_scales(s)
    quantizing.require_values(s=s)
    if s.dim() not in (2, 3):
        raise ValueError(
            f"s has shape {tuple(s.shape)}; wanted {words.symbolic_shape('sa', 2)} or "
            f"{words.symbolic_shape('sa', 3)}, as `q, s = cute_gemm.quantize_1x128(x)` makes it"
        )
    *groups, rows, blocks = s.shape
    multiple = SCALE_STRIDE_MULTIPLE
    padded = s.new_zeros(*groups, blocks, ceil_div(rows, multiple) * multiple)
    return padded[..., :rows].mT.copy_(s)


def _times(q: Tensor, s: Tensor, dtype: torch.dtype) -> Tensor:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return (q.to(wide) * s.to(wide)).to(dtype)


def _require_quantized(q: Tensor, s: Tensor, dtype: torch.dtype) -> None:
    """A quantised tensor and its scales, and a dtype for their product."""
    memory.require_tensor("q", q)
    if q.dtype is not E4M3:
        raise TypeError(f"q has dtype {q.dtype}; wanted {E4M3}")
    quantizing.require_scales(s)
    if not any(dtype is each for each in _TARGET_DTYPES):
        raise TypeError(f"dtype is {dtype!r}; wanted {quantizing.one_of(_TARGET_DTYPES)}")
    if q.device != s.device:
        memory.require_one_device(q=q, s=s)
    quantizing.require_values(q=q, s=s)


def _require_scale_shape(q: Tensor, s: Tensor, wanted: tuple[int, ...]) -> None:
    if s.shape != wanted:
        raise ValueError(f"s has shape {tuple(s.shape)}; wanted {wanted} for q of shape {tuple(q.shape)}")
