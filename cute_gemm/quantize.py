"""Quantisation of matrices to e4m3 with fine-grained scales, and the inverses, in plain torch.

The granularity is that of the DeepSeek-V3 technical report (arXiv:2412.19437, section 3.3): activations carry
one scale per row and 128 consecutive elements of K ("1x128"), weights one per 128x128 block. A scale
multiplies the stored e4m3 values: ``x`` is about ``q * s``.

What is set around a call changes no result, as for a product: see :mod:`cute_gemm.contract.ambient`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .contract import OWNING_TYPES, ambient, memory, options, words
from .plan.limits import SCALE_STRIDE_MULTIPLE, ceil_div
from .plan.recipe import FP8_1D2D as RECIPE

E4M3_MAX = 448.0

_E4M3 = torch.float8_e4m3fn
_SCALE_DTYPE = torch.float32
_SOURCE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_TARGET_DTYPES = (torch.float64, *_SOURCE_DTYPES)
_SMALLEST_NORMAL = 2.0**-126


def scale_blocks(length: int) -> int:
    """Scales that cover ``length`` elements along K, or of the rows of a weight; the last may cover fewer."""
    return ceil_div(length, RECIPE.scale_k)


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
        TypeError: ``x`` is not a tensor, or not of one of the three dtypes; or ``power_of_two_scales`` is no
            bool.
        ValueError: ``x`` has no dimension; it is sparse, nested, opaque, or without memory (a parameter that
            is not initialised, storage that was freed); or a derivative is wanted, which is not computed:
            pass ``x.detach()``.
    """
    _require_source("x", x, power_of_two_scales)
    if x.dim() == 0:
        raise ValueError("x has no dimension; wanted [..., K]: `x[None]` is a row of one element")
    k, width = x.shape[-1], RECIPE.scale_k
    with ambient.no_autocast(x.device):
        blocks = _pad(x, (0, -k % width)).unflatten(-1, (scale_blocks(k), width))
        s = _scales(blocks.abs().amax(-1), power_of_two_scales)
        return _to_e4m3(blocks, s.unsqueeze(-1)).flatten(-2)[..., :k].contiguous(), s


def quantize_128x128(w: Tensor, *, power_of_two_scales: bool = False) -> tuple[Tensor, Tensor]:
    """Quantise matrices to e4m3 with one scale per block of 128 rows and 128 columns.

    Args:
        w: ``[..., N, K]``, such as one matrix ``[N, K]`` or one for each group ``[G, N, K]``; fp32, bf16 or
            fp16, any strides, any device; neither N nor K need be a multiple of 128. A parameter is to be
            detached, `w.detach()`.
        power_of_two_scales: round every scale up to a power of two (up, so that nothing saturates).

    Returns:
        ``q``: e4m3 ``[..., N, K]``, contiguous, and ``s``: fp32 ``[..., ceil(N/128), ceil(K/128)]``,
        contiguous. No block reaches from one matrix into the next.
        Scales, zero blocks, tiny values, NaN and infinities are treated as by `quantize_1x128`.

    Raises:
        TypeError, ValueError: as by `quantize_1x128`; ValueError also where ``w`` has fewer than two
            dimensions.
    """
    _require_source("w", w, power_of_two_scales)
    if w.dim() < 2:
        raise ValueError(f"w has shape {tuple(w.shape)}; wanted [..., N, K]: `w[None]` is a single row")
    (n, k), height, width = w.shape[-2:], RECIPE.scale_n, RECIPE.scale_k
    with ambient.no_autocast(w.device):
        blocks = _pad(w, (0, -k % width, 0, -n % height))
        blocks = blocks.unflatten(-1, (scale_blocks(k), width)).unflatten(-3, (ceil_div(n, height), height))
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
    _require_scales(s)
    _require_values(s=s)
    if s.dim() not in (2, 3):
        raise ValueError(
            f"s has shape {tuple(s.shape)}; wanted {words.symbolic_shape('sa', 2)} or "
            f"{words.symbolic_shape('sa', 3)}, as `q, s = cute_gemm.quantize_1x128(x)` makes it"
        )
    *groups, rows, blocks = s.shape
    multiple = SCALE_STRIDE_MULTIPLE
    padded = s.new_zeros(*groups, blocks, ceil_div(rows, multiple) * multiple)
    return padded[..., :rows].mT.copy_(s)


def _pad(x: Tensor, pad: tuple[int, ...]) -> Tensor:
    if x.numel():
        return torch.nn.functional.pad(x, pad) if any(pad) else x
    # torch 2.8 does not pad what is empty.
    shape = [*x.shape]
    for dim, more in enumerate(pad[1::2], start=1):
        shape[-dim] += more
    return x.new_empty(shape)


def _scales(amax: Tensor, power_of_two: bool) -> Tensor:
    amax = amax.float()
    # Dividing by a Python number multiplies by its rounded inverse on CUDA: an amax of 448 * 2**e would then
    # miss the power of two, and devices would disagree.
    s = (amax / amax.new_full((), E4M3_MAX)).clamp(min=_SMALLEST_NORMAL)
    if power_of_two:
        # Adding all ones to the mantissa carries into the exponent unless the mantissa is zero.
        s = ((s.view(torch.int32) + 0x007FFFFF) & 0x7F800000).view(torch.float32)
    s = s.masked_fill(amax == 0, 1.0)
    return s.masked_fill(~amax.isfinite(), torch.nan)


def _to_e4m3(blocks: Tensor, s: Tensor) -> Tensor:
    # The clamp matters where the quotient rounds past 448: not every torch release saturates in the cast.
    return (blocks.float() / s).clamp(-E4M3_MAX, E4M3_MAX).to(_E4M3)


def _times(q: Tensor, s: Tensor, dtype: torch.dtype) -> Tensor:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return (q.to(wide) * s.to(wide)).to(dtype)


def _require_source(name: str, x: Tensor, power_of_two_scales: bool) -> None:
    """A tensor to quantise, and how."""
    options.require_flag("power_of_two_scales", power_of_two_scales)
    memory.require_tensor(name, x)
    if x.dtype not in _SOURCE_DTYPES:
        fix = f": `{name}.to(torch.float32)`" if x.dtype is torch.float64 else ""
        raise TypeError(f"{name} has dtype {x.dtype}; wanted {_one_of(_SOURCE_DTYPES)}{fix}")
    _require_values(**{name: x})


def _require_quantized(q: Tensor, s: Tensor, dtype: torch.dtype) -> None:
    """A quantised tensor and its scales, and a dtype for their product."""
    memory.require_tensor("q", q)
    if q.dtype is not _E4M3:
        raise TypeError(f"q has dtype {q.dtype}; wanted {_E4M3}")
    _require_scales(s)
    if not any(dtype is each for each in _TARGET_DTYPES):
        raise TypeError(f"dtype is {dtype!r}; wanted {_one_of(_TARGET_DTYPES)}")
    if q.device != s.device:
        memory.require_one_device(q=q, s=s)
    _require_values(q=q, s=s)


def _require_scales(s: Tensor) -> None:
    memory.require_tensor("s", s)
    if s.dtype is not _SCALE_DTYPE:
        real = "s.real" if s.dtype.is_complex else "s"
        raise TypeError(f"s has dtype {s.dtype}; wanted {_SCALE_DTYPE}: `{real}.to({_SCALE_DTYPE})`")


def _require_scale_shape(q: Tensor, s: Tensor, wanted: tuple[int, ...]) -> None:
    if s.shape != wanted:
        raise ValueError(f"s has shape {tuple(s.shape)}; wanted {wanted} for q of shape {tuple(q.shape)}")


def _require_values(**tensors: Tensor) -> None:
    """Each has its values in memory, and no derivative is lost, be it wanted or tracked by a wrapper."""
    # Dynamo traces what follows these rules, and of transforms and tangents what torch does with them. In the
    # backward of a torch.autograd.Function it does not look at a tensor's layout.
    if torch.compiler.is_compiling():
        ambient.require_no_gradient(**tensors)
        return
    for name, x in tensors.items():
        memory.require_dense(name, x)
    ambient.require_no_gradient(**tensors)
    for name, x in tensors.items():
        if type(x) in OWNING_TYPES:
            ambient.require_no_transform(name, x)
            if x.numel() and (x.is_cpu or x.is_cuda):
                memory.require_memory(name, x)
    ambient.require_no_tangent(**tensors)


def _one_of(dtypes: tuple[torch.dtype, ...]) -> str:
    return f"{', '.join(map(str, dtypes[:-1]))} or {dtypes[-1]}"
