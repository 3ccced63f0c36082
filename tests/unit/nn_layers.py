"""What tests of layers for training share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cute_gemm import dequantize_1x128, dequantize_128x128, quantize_1x128, quantize_128x128
from cute_gemm.nn import FP8Linear

OUT, IN = 144, 272
"""Sizes of layers: more than a block of 128, and no multiple of it."""


def layer(dtype: torch.dtype = torch.bfloat16, seed: int = 0, **named: Any) -> FP8Linear:
    """With a bias, unless asked otherwise."""
    torch.manual_seed(seed)
    return FP8Linear(IN, OUT, dtype=dtype, **named)


def normal(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def by_rows(x: Tensor) -> Tensor:
    """In FP64, what 1x128 makes of it."""
    return dequantize_1x128(*quantize_1x128(x.detach()), torch.float64)


def by_blocks(w: Tensor) -> Tensor:
    """In FP64, what 128x128 makes of it."""
    return dequantize_128x128(*quantize_128x128(w.detach()), torch.float64)


def off(x: Tensor, wanted: Tensor) -> float:
    """The relative error, of norms."""
    difference = (x.double() - wanted.double()).norm() / wanted.double().norm()
    return difference.item()
