"""Arithmetic, and casts, which cute_gemm's formula makes.

A block of zeros has the scale 1, and no block's largest value is taken to be at least 1e-4, as in DeepGEMM:
tiny blocks keep their precision. No cast has a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .... import quantize_1x128, quantize_128x128
from ....contract.quantizing import SOURCE_DTYPES
from ....plan.limits import ceil_div
from ....plan.quantizer import BLOCK
from ....quantize import formula
from ..missing import missing
from .ue8m0 import ceil_to_ue8m0, pack_ue8m0_to_int, unpack_ue8m0_from_int

__all__ = [
    "align",
    "cast_back_from_fp4",
    "ceil_div",
    "ceil_to_ue8m0",
    "pack_ue8m0_to_int",
    "per_block_cast_to_fp8",
    "per_channel_cast_to_fp8",
    "per_custom_dims_cast_to_fp8",
    "per_token_cast_to_fp4",
    "per_token_cast_to_fp8",
    "transpose_packed_fp4",
    "unpack_ue8m0_from_int",
]

_FP4 = "casts to and from FP4"
per_token_cast_to_fp4 = missing("per_token_cast_to_fp4", _FP4)
transpose_packed_fp4 = missing("transpose_packed_fp4", _FP4)
cast_back_from_fp4 = missing("cast_back_from_fp4", _FP4)


def align(x: int, y: int) -> int:
    """The smallest multiple of `y` that is not below `x`."""
    return ceil_div(x, y) * y


def per_token_cast_to_fp8(
    x: Tensor, use_ue8m0: bool, gran_k: int = BLOCK, use_packed_ue8m0: bool = False
) -> tuple[Tensor, Tensor]:
    """E4m3 with a scale for each row and `gran_k` columns.

    Args:
        x: `[M, K]`, of FP32, bf16 or FP16.
        use_ue8m0: whether scales are rounded up to powers of two.
        gran_k: columns that share one; those of 128 a kernel casts.
        use_packed_ue8m0: whether they are packed, which takes a multiple of four of them.

    Returns:
        e4m3 `[M, K]`, and FP32 `[M, ceil(K / gran_k)]`, or int32 of a fourth of that.
    """
    x = _matrix(x)
    if gran_k == BLOCK:
        q, s = quantize_1x128(x, power_of_two_scales=use_ue8m0)
    else:
        padded = _padded(x, 1, gran_k)
        q, s = _cast(padded.unflatten(1, (-1, gran_k)), (2,), use_ue8m0)
        q, s = q.flatten(1)[:, : x.shape[1]].contiguous(), s.squeeze(2)
    return q, pack_ue8m0_to_int(s) if use_packed_ue8m0 else s


def per_channel_cast_to_fp8(x: Tensor, use_ue8m0: bool, gran_k: int = BLOCK) -> tuple[Tensor, Tensor]:
    """E4m3 with a scale for each column and `gran_k` rows: of `[K, N]`, K a multiple of it.

    Returns:
        e4m3 `[K, N]`, and FP32 `[K / gran_k, N]`.

    Raises:
        ValueError: K is no multiple.
    """
    x = _matrix(x)
    if x.shape[0] % gran_k:
        raise ValueError(f"x has {x.shape[0]} rows; wanted a multiple of gran_k = {gran_k}")
    q, s = _cast(x.unflatten(0, (x.shape[0] // gran_k, gran_k)), (1,), use_ue8m0)
    return q.flatten(0, 1), s.squeeze(1)


def per_block_cast_to_fp8(x: Tensor, use_ue8m0: bool, gran_k: int = BLOCK) -> tuple[Tensor, Tensor]:
    """E4m3 with a scale for each block of `gran_k` rows and columns; those of 128 a kernel casts.

    Returns:
        e4m3 `[N, K]`, and FP32 `[ceil(N / gran_k), ceil(K / gran_k)]`.
    """
    x = _matrix(x)
    if gran_k == BLOCK:
        return quantize_128x128(x, power_of_two_scales=use_ue8m0)
    rows, columns = x.shape
    blocks = _padded(_padded(x, 1, gran_k), 0, gran_k).unflatten(1, (-1, gran_k)).unflatten(0, (-1, gran_k))
    q, s = _cast(blocks, (1, 3), use_ue8m0)
    return q.flatten(2).flatten(0, 1)[:rows, :columns].contiguous(), s.squeeze(3).squeeze(1)


def per_custom_dims_cast_to_fp8(x: Tensor, dims: Sequence[int], use_ue8m0: bool) -> tuple[Tensor, Tensor]:
    """E4m3 with a scale for each place along `dims`, which are not negative; all else shares it.

    Returns:
        e4m3 of the shape of `x`, and FP32 of the extents of `dims`, those of 1 left out.
    """
    x = x.detach()
    shared = tuple(dim for dim in range(x.dim()) if dim not in dims)
    q, s = _cast(x, shared, use_ue8m0)
    return q, s.squeeze()


def _matrix(x: Tensor) -> Tensor:
    if x.dim() != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; wanted two dimensions")
    if x.dtype not in SOURCE_DTYPES:
        raise TypeError(f"x has dtype {x.dtype}; wanted one of {', '.join(map(str, SOURCE_DTYPES))}")
    return x.detach()


def _padded(x: Tensor, dim: int, multiple: int) -> Tensor:
    """A matrix with zeros behind it, up to a multiple of rows or columns."""
    more = -x.shape[dim] % multiple
    return torch.nn.functional.pad(x, (0, more) if dim else (0, 0, 0, more)) if more else x


def _cast(x: Tensor, shared: tuple[int, ...], use_ue8m0: bool) -> tuple[Tensor, Tensor]:
    """E4m3, and scales that all elements along some dimensions share, which are kept with an extent of 1."""
    amax = x.abs().amax(shared, keepdim=True) if shared else x.abs()
    s = formula.scales(amax, use_ue8m0)
    return formula.to_e4m3(x, s), s
