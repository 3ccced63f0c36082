"""UE8M0: powers of two by their exponents, a byte each, as Blackwell's tensor cores take scales."""

from __future__ import annotations

import torch
from torch import Tensor

_MANTISSA = 0x007FFFFF
_EXPONENT_BIT = 23
PACKED = 4
"""Exponents in an int32."""


def exponents(x: Tensor) -> Tensor:
    """The exponents of FP32 as they are stored, in uint8; signs and mantissas are dropped.

    Raises:
        TypeError: another dtype.
    """
    if x.dtype is not torch.float32:
        raise TypeError(f"scales have dtype {x.dtype}; wanted torch.float32")
    return (x.detach().view(torch.int32) >> _EXPONENT_BIT).to(torch.uint8)


def ceil_to_ue8m0(x: Tensor) -> Tensor:
    """The smallest powers of two that are not below the magnitudes of `x`, from 2^-126 to 2^127, in FP32."""
    bits = x.abs().to(torch.float32).view(torch.int32)
    # All ones added to the mantissa carry into the exponent, unless the mantissa is zero.
    exponents = (bits + _MANTISSA) >> _EXPONENT_BIT
    return (exponents.clamp(1, 254) << _EXPONENT_BIT).view(torch.float32)


def pack_ue8m0_to_int(x: Tensor) -> Tensor:
    """The exponents of powers of two, four in an int32.

    Args:
        x: FP32 `[..., K]`, K a multiple of 4, contiguous in it.

    Returns:
        int32 `[..., K / 4]`, the first in the lowest byte.

    Raises:
        TypeError: another dtype.
        ValueError: another number of them, or others than powers of two. The host waits for the device.
    """
    packable = exponents(x)
    if x.shape[-1] % PACKED:
        raise ValueError(f"x has {x.shape[-1]} columns; wanted a multiple of {PACKED}")
    bits = x.detach().view(torch.int32)
    if bool(((bits < 0) | (bits & _MANTISSA != 0)).any()):
        raise ValueError("x holds others than powers of two; wanted them, as `ceil_to_ue8m0(x)` makes them")
    return packable.view(torch.int32)


def unpack_ue8m0_from_int(packed_sf: Tensor) -> Tensor:
    """What :func:`pack_ue8m0_to_int` has packed: FP32 `[..., K]` of int32 `[..., K / 4]`."""
    return (packed_sf.view(torch.uint8).to(torch.int32) << _EXPONENT_BIT).view(torch.float32)
