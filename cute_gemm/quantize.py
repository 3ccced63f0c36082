"""Quantisation of matrices to e4m3 with fine-grained scales, and the inverses, in plain torch.

The granularity is that of the DeepSeek-V3 technical report (arXiv:2412.19437, section 3.3): activations carry
one scale per row and 128 consecutive elements of K ("1x128"), weights one per 128x128 block. A scale
multiplies the stored e4m3 values: ``x`` is about ``q * s``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .plan.limits import BLOCK_K, ceil_div

BLOCK = BLOCK_K
E4M3_MAX = 448.0

_SOURCE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_TARGET_DTYPES = (torch.float64, *_SOURCE_DTYPES)
_SMALLEST_NORMAL = 2.0**-126


def scale_blocks(length: int) -> int:
    """Number of 128-wide scale blocks that cover ``length`` elements; the last one may be partial."""
    return ceil_div(length, BLOCK)


def quantize_1x128(x: Tensor, *, power_of_two_scales: bool = False) -> tuple[Tensor, Tensor]:
    """Quantise ``x`` to e4m3 with one scale per row and 128 consecutive elements of the last dimension.

    Args:
        x: ``[..., K]``, fp32, bf16 or fp16, any strides, any device; K need not be a multiple of 128.
        power_of_two_scales: round every scale up to a power of two (up, so that nothing saturates).

    Returns:
        ``q``: e4m3 ``[..., K]``, contiguous, and ``s``: fp32 ``[..., ceil(K/128)]``, contiguous, such that
        ``q * s`` (each scale repeated over its block) is about ``x``. ``s`` is ``amax / 448``, and 1 for a
        block of zeros. No scale is below 2**-126, the smallest normal fp32 number: a smaller one would lose
        bits, and its inverse would overflow. Values below about 2**-136 therefore become zero.
        A block that holds a NaN or an infinity comes back as NaN throughout, scale and values. It is no
        error, as looking would make the host wait for the device and would break the capture of CUDA graphs.

    Raises:
        TypeError: ``x`` is not a tensor, or not of one of the three dtypes.
        ValueError: ``x`` has no dimension.
    """
    _check_source("quantize_1x128", "x", x)
    if x.dim() == 0:
        raise ValueError("quantize_1x128: x has no dimension; want [..., K]")
    k = x.shape[-1]
    blocks = _pad(x.detach(), (0, -k % BLOCK)).unflatten(-1, (scale_blocks(k), BLOCK))
    s = _scales(blocks.abs().amax(-1), power_of_two_scales)
    return _to_e4m3(blocks, s.unsqueeze(-1)).flatten(-2)[..., :k].contiguous(), s


def quantize_128x128(w: Tensor, *, power_of_two_scales: bool = False) -> tuple[Tensor, Tensor]:
    """Quantise matrices to e4m3 with one scale per block of 128 rows and 128 columns.

    Args:
        w: ``[..., N, K]``, such as one matrix ``[N, K]`` or one for each group ``[G, N, K]``; fp32, bf16 or
            fp16, any strides, any device; neither N nor K need be a multiple of 128.
        power_of_two_scales: round every scale up to a power of two (up, so that nothing saturates).

    Returns:
        ``q``: e4m3 ``[..., N, K]``, contiguous, and ``s``: fp32 ``[..., ceil(N/128), ceil(K/128)]``,
        contiguous. No block reaches from one matrix into the next.
        Scales, zero blocks, tiny values, NaN and infinities are treated as by `quantize_1x128`.

    Raises:
        TypeError: ``w`` is not a tensor, or not of one of the three dtypes.
        ValueError: ``w`` has fewer than two dimensions.
    """
    _check_source("quantize_128x128", "w", w)
    if w.dim() < 2:
        raise ValueError(f"quantize_128x128: w has shape {list(w.shape)}; want [..., N, K]")
    n, k = w.shape[-2:]
    blocks = _pad(w.detach(), (0, -k % BLOCK, 0, -n % BLOCK))
    blocks = blocks.unflatten(-1, (scale_blocks(k), BLOCK)).unflatten(-3, (scale_blocks(n), BLOCK))
    s = _scales(blocks.abs().amax((-3, -1)), power_of_two_scales)
    q = _to_e4m3(blocks, s[..., :, None, :, None]).flatten(-2).flatten(-3, -2)
    return q[..., :n, :k].contiguous(), s


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
        ValueError: ``s`` does not have the shape that belongs to ``q``.
    """
    _check_quantized("dequantize_1x128", q, s, dtype)
    if q.dim() == 0:
        raise ValueError("dequantize_1x128: q has no dimension; want [..., K]")
    k = q.shape[-1]
    _check_scale_shape("dequantize_1x128", q, s, (*q.shape[:-1], scale_blocks(k)))
    return _times(q, s.repeat_interleave(BLOCK, -1)[..., :k], dtype)


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
        ValueError: ``q`` has fewer than two dimensions, or ``s`` does not have the shape that belongs to it.
    """
    _check_quantized("dequantize_128x128", q, s, dtype)
    if q.dim() < 2:
        raise ValueError(f"dequantize_128x128: q has shape {list(q.shape)}; want [..., N, K]")
    n, k = q.shape[-2:]
    _check_scale_shape("dequantize_128x128", q, s, (*q.shape[:-2], scale_blocks(n), scale_blocks(k)))
    rows = s.repeat_interleave(BLOCK, -2)[..., :n, :]
    return _times(q, rows.repeat_interleave(BLOCK, -1)[..., :k], dtype)


def m_major(s: Tensor) -> Tensor:
    """Copy 1x128 scales into the M-major layout whose rows TMA can load: strides ``(1, round_up(M, 4))``.

    DeepGEMM's users hold their scales in this layout. This library multiplies with it and with the row-major
    one, by no further kernel, so nobody has to call this before a multiplication. With 128 rows and more,
    multiplying takes up to 5 % less with this layout, which TMA loads; with few rows and a short K up to 5 %
    less with the row-major one.

    Args:
        s: fp32 ``[M, ceil(K/128)]``, any strides.

    Returns:
        The same values and shape; the storage behind the view is padded with zeros to a multiple of 4 rows
        (16 bytes).

    Raises:
        TypeError: ``s`` is not an fp32 tensor.
        ValueError: ``s`` is not two-dimensional.
    """
    if not isinstance(s, Tensor) or s.dtype != torch.float32:
        raise TypeError(f"m_major: s is {_kind(s)}; want a torch.float32 tensor")
    if s.dim() != 2:
        raise ValueError(f"m_major: s has shape {list(s.shape)}; want two dimensions, [M, ceil(K/128)]")
    m, blocks = s.shape
    view = s.new_zeros(blocks, m + -m % 4).t()[:m]
    return view.copy_(s)


def _pad(x: Tensor, pad: tuple[int, ...]) -> Tensor:
    return torch.nn.functional.pad(x, pad) if any(pad) else x


def _scales(amax: Tensor, power_of_two: bool) -> Tensor:
    amax = amax.float()
    # Dividing by a Python number multiplies by its rounded inverse on CUDA: an amax of 448 * 2**e would then
    # miss the power of two, and devices would disagree.
    s = (amax / amax.new_full((), E4M3_MAX)).clamp(min=_SMALLEST_NORMAL)
    if power_of_two:
        # Adding all ones to the mantissa carries into the exponent unless the mantissa is zero.
        s = ((s.view(torch.int32) + 0x007FFFFF) & 0x7F800000).view(torch.float32)
    s = torch.where(amax == 0, 1.0, s)
    return torch.where(amax.isfinite(), s, torch.nan)


def _to_e4m3(blocks: Tensor, s: Tensor) -> Tensor:
    # The clamp matters where the quotient rounds past 448: not every torch release saturates in the cast.
    return (blocks.float() / s).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def _times(q: Tensor, s: Tensor, dtype: torch.dtype) -> Tensor:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return (q.to(wide) * s.to(wide)).to(dtype)


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(d) for d in dtypes)


def _check_source(function: str, name: str, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{function}: {name} is a {type(x).__name__}; want a torch.Tensor")
    if x.dtype not in _SOURCE_DTYPES:
        raise TypeError(f"{function}: {name} is {x.dtype}; want one of {_names(_SOURCE_DTYPES)}")


def _check_quantized(function: str, q: Tensor, s: Tensor, dtype: torch.dtype) -> None:
    if not isinstance(q, Tensor) or q.dtype != torch.float8_e4m3fn:
        raise TypeError(f"{function}: q is {_kind(q)}; want a torch.float8_e4m3fn tensor")
    if not isinstance(s, Tensor) or s.dtype != torch.float32:
        raise TypeError(f"{function}: s is {_kind(s)}; want a torch.float32 tensor")
    if dtype not in _TARGET_DTYPES:
        raise TypeError(f"{function}: dtype is {dtype}; want one of {_names(_TARGET_DTYPES)}")


def _check_scale_shape(function: str, q: Tensor, s: Tensor, want: tuple[int, ...]) -> None:
    if s.shape != want:
        raise ValueError(
            f"{function}: s has shape {list(s.shape)}; want {list(want)} for q of shape {list(q.shape)}"
        )
