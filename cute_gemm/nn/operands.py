"""Activations and their gradients in FP8, for products along features and along tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..plan.limits import K_MULTIPLE
from ..quantize import quantize_1x128, quantize_both_ways
from .weights import Operand


def along_features(x: Tensor) -> Operand:
    """``x`` ``[T, K]``, 1x128 along K."""
    return quantize_1x128(x)


def along_both(x: Tensor) -> tuple[Operand, Operand]:
    """The same, and of ``x`` transposed 1x128 along tokens, which are padded by zeros to a multiple of 16."""
    tokens = x.shape[0]
    if tokens % K_MULTIPLE:
        x = pad(x, (0, 0, 0, -tokens % K_MULTIPLE))
    # So products have TMA load them: of others they would make copies.
    (q, s), along_tokens = quantize_both_ways(x, m_major_scales=True)
    return (q[:tokens], s[:tokens]), along_tokens


def as_autocast(x: Tensor) -> Tensor:
    """``x`` in the dtype that autocast has :func:`torch.nn.functional.linear` compute in."""
    kind = x.device.type
    if kind not in ("cpu", "cuda") or not torch.is_autocast_enabled(kind):
        return x
    if not x.is_floating_point() or x.dtype is torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(kind))


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """What a product is to store where ``dtype`` is wanted: that, or what loses nothing of it."""
    return torch.bfloat16 if dtype is torch.bfloat16 else torch.float32
