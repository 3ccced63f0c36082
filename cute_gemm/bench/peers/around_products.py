"""What a program without kernels of its own has around the products of an expert layer.

What goes element by element is compiled torch. The sum of a token's rows is a kernel in Triton: of a gather,
a weight and a sum, torch makes what takes several times as long.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...measure.shapes import Shape


class Compiled(NamedTuple):
    """`gather` and `swiglu`, compiled."""

    gather: Callable[[Tensor, Tensor], Tensor]
    swiglu: Callable[[Tensor], Tensor]


@functools.lru_cache(1)
def compiled(shape: Shape) -> Compiled:
    """Each function by itself, for the tensors of one shape of a layer, of all its peers and copies."""
    # What was compiled for other shapes counts towards what Dynamo makes of a function at most.
    torch.compiler.reset()
    each = functools.partial(torch.compile, fullgraph=True, dynamic=False)
    return Compiled(each(gather), each(swiglu))


def gather(x: Tensor, tokens: Tensor) -> Tensor:
    """Rows of ``x`` in the order of experts."""
    return x.index_select(0, tokens)


def swiglu(x: Tensor) -> Tensor:
    """``silu(gate) * up`` of halves, in the dtype that they have."""
    gate, up = x.float().chunk(2, -1)
    return (torch.nn.functional.silu(gate) * up).to(x.dtype)


def add_up(rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """As :func:`.triton_sums.add_up`, which needs Triton."""
    from . import triton_sums

    return triton_sums.add_up(rows, places, weights)
