"""Products with scales for 1x128 of both operands, which are added to a result: gradients of weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ... import fp8_gemm_nt as _dense
from ...contract import words
from . import process

Pair = tuple[Tensor, Tensor]


def is_same(c: Tensor, d: Tensor) -> bool:
    """Whether what is added is the result itself."""
    return c is d or (c.data_ptr() == d.data_ptr() and c.stride() == d.stride() and c.shape == d.shape)


def require_result(d: Tensor, c: Tensor | None) -> None:
    """Both are FP32, and alike.

    Raises:
        TypeError: one is no tensor, or has another dtype.
        ValueError: `c` has another shape than `d`, or is on another device.
    """
    for name, x in {"d": d, "c": c}.items() if c is not None else [("d", d)]:
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} is {words.kind(x)}; wanted a tensor")
        if x.dtype is not torch.float32:
            raise TypeError(
                f"{name} has dtype {x.dtype}; wanted torch.float32, as both operands have scales for 1x128"
            )
    if c is not None and (c.shape != d.shape or c.device != d.device):
        raise ValueError(f"c is {words.sketch(c)}, d {words.sketch(d)}; wanted the same of both")


def sum_up(products: Iterable[tuple[Pair, Pair, Tensor]], d: Tensor, c: Tensor | None) -> None:
    """`C + A @ B.T` for each product; `c` may be `d`, and None is zero.

    Args:
        products: the operands of each, and its part of `d`.
        d: the whole result.
        c: what is added, as :func:`require_result` wants it.
    """
    accumulate = c is not None and is_same(c, d)
    for a, b, out in products:
        process.run(_dense, a, b, out=out, accumulate=accumulate)
    # An error above leaves `d` as it was, as it would not after a copy of `c`; bits are the same.
    if c is not None and not accumulate:
        with torch.no_grad():
            d.add_(c)
