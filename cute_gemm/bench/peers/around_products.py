"""What a program without kernels of its own has around the products of an expert layer: compiled torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...measure.shapes import Shape


class Compiled(NamedTuple):
    """The functions below, compiled."""

    gather: Callable[[Tensor, Tensor], Tensor]
    swiglu: Callable[[Tensor], Tensor]
    add_up: Callable[[Tensor, Tensor, Tensor], Tensor]


@functools.lru_cache(1)
def compiled(shape: Shape) -> Compiled:
    """Each function by itself, for the tensors of one shape of a layer, of all its peers and copies."""
    # What was compiled for other shapes counts towards what Dynamo makes of a function at most.
    torch.compiler.reset()
    each = functools.partial(torch.compile, fullgraph=True, dynamic=False)
    return Compiled(each(gather), each(swiglu), each(add_up))


def gather(x: Tensor, tokens: Tensor) -> Tensor:
    """Rows of ``x`` in the order of experts."""
    return x.index_select(0, tokens)


def swiglu(x: Tensor) -> Tensor:
    """``silu(gate) * up`` of halves, in the dtype that they have."""
    gate, up = x.float().chunk(2, -1)
    return (torch.nn.functional.silu(gate) * up).to(x.dtype)


def add_up(rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of each token's rows in FP32; a place of -1 adds nothing.

    Args:
        rows: bf16 ``[R, K]``.
        places: int32 ``[T, k]``.
        weights: fp32 ``[T, k]``.
    """
    chosen = rows[places.clamp(min=0)].float() * weights[..., None]
    # What is no row may be NaN.
    return torch.where((places >= 0)[..., None], chosen, 0.0).sum(1).to(rows.dtype)
