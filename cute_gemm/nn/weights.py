"""Weights in FP8, made once for each value that a parameter has.

What is kept is let go where the parameter may have changed: another object, another address, another count of
changes in place (``_version``), or a step of any optimiser of torch. The last is for optimisers whose kernels
write to memory without a word to autograd, and for those that copy an FP32 weight to ``parameter.data``.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..contract import OWNING_TYPES
from ..quantize import quantize_128x128

Operand = tuple[Tensor, Tensor]
"""e4m3 values and their scales."""


def quantized(weight: Tensor) -> Operand:
    """A weight ``[..., N, K]`` as B of a product that sums over K."""
    return quantize_128x128(weight)


def transposed(weight: Tensor) -> Operand:
    """The same values ``[..., K, N]``, for a product that sums over N: blocks are transposed alike."""
    return quantize_128x128(weight.mT)


class _Kept(NamedTuple):
    parameter: weakref.ref[Tensor]
    state: tuple[Any, ...]
    rows: Operand
    columns: Operand | None


class KeptWeight:
    """One parameter's FP8 values, for products of forward and of backward.

    It is no part of a module's state: a copy or a pickle of it is empty.
    """

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def __reduce__(self) -> tuple[type[KeptWeight], tuple[()]]:
        return KeptWeight, ()

    def forget(self) -> None:
        """Lets go of what is kept."""
        self._kept = None

    def rows(self, weight: Tensor) -> Operand:
        """As :func:`quantized`."""
        if not _may_be_kept(weight):
            return quantized(weight)
        return self._of(weight).rows

    def columns(self, weight: Tensor) -> Operand:
        """As :func:`transposed` of it."""
        if not _may_be_kept(weight):
            return transposed(weight)
        kept = self._of(weight)
        if kept.columns is None:
            kept = self._kept = kept._replace(columns=transposed(weight))
        assert kept.columns is not None
        return kept.columns

    def _of(self, weight: Tensor) -> _Kept:
        kept, state = self._kept, _state(weight)
        if kept is None or kept.parameter() is not weight or kept.state != state:
            self._kept = None  # the old is gone before the new is made
            kept = self._kept = _Kept(weakref.ref(weight), state, quantized(weight), None)
        return kept


def rows(kept: KeptWeight | None, weight: Tensor) -> Operand:
    """As :func:`quantized`; of what is kept, if there is a place for it."""
    return quantized(weight) if kept is None else kept.rows(weight)


def columns(kept: KeptWeight | None, weight: Tensor) -> Operand:
    """As :func:`transposed` of it."""
    return transposed(weight) if kept is None else kept.columns(weight)


class _Steps:
    """How many steps optimisers have made in this process."""

    made = 0


def _count_step(*_: Any) -> None:
    _Steps.made += 1


register_optimizer_step_post_hook(_count_step)


def _may_be_kept(weight: Tensor) -> bool:
    # A captured graph must quantise whenever it is replayed: the weight may have changed by then.
    is_captured = weight.is_cuda and torch.cuda.is_current_stream_capturing()
    return type(weight) in OWNING_TYPES and not weight.is_inference() and not is_captured


def _state(weight: Tensor) -> tuple[Any, ...]:
    # Another stream would not wait for what this one makes.
    stream = torch.cuda.current_stream(weight.device).cuda_stream if weight.is_cuda else 0
    return weight._version, weight.data_ptr(), stream, _Steps.made
