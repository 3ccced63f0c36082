"""Whether a kernel may be handed tensors, whatever lies in them: asked of each once, then compared.

To ask a tensor five questions from Python takes longer than to convert it for a kernel. So the tensors of a
call are compared, all at once, with those of earlier calls that were in order. What is compared is their
kind. Where they lie, how large they are and what else can differ within a kind, a kernel's host code judges
each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import is_grad_enabled

from ..contract import OWNING_TYPES
from ..contract.quantizing import SCALE_DTYPE
from .caller import several_devices
from .torch_internals import derivatives_may_be_tracked, forward_mode_may_be_active, same_kind

MOST_KINDS = 4
"""That are remembered of one way to call a kernel: of tensors made in inference mode, or not, and so on."""

_seen: dict[tuple[Any, ...], tuple[Callable[..., bool], ...]] = {}
"""Kinds of tensors in order, by a kernel, their number, whether gradients are recorded, and the device."""


def forget() -> None:
    """Has all tensors be looked at one by one again."""
    _seen.clear()


def are_plain(kernel: Callable[..., None], read: tuple[Any, ...], results: tuple[Any, ...]) -> bool:
    """Whether all are tensors that own their memory, of which no derivative is asked.

    And whether, but for scales, columns are contiguous, as TVM FFI would raise else, which takes long; and
    whether the first tensor is on the current device.

    Args:
        kernel: what they are for.
        read: not empty.
        results: those that are given.
    """
    if forward_mode_may_be_active():
        return False
    device = 0
    if several_devices():
        device = read[0].get_device()
        if device != torch.cuda.current_device():
            return False
    tensors, is_recorded = read + results, is_grad_enabled()
    way = kernel, len(tensors), is_recorded, device
    kinds = _seen.get(way, ())
    for are_of_kind in kinds:
        if are_of_kind(*tensors):
            return True
    if derivatives_may_be_tracked() or not all(_is_plain(each, is_recorded) for each in tensors):
        return False
    strides = [1] * len(read) + [None if each.dtype is SCALE_DTYPE else 1 for each in results]
    for each, stride in zip(tensors, strides, strict=True):
        if stride is not None and each.stride()[-1] != stride and not each.is_contiguous():
            return False
    kind = same_kind(tensors, strides)
    # Of a tensor that comes twice, or one of a single column, there is none.
    if len(kinds) < MOST_KINDS and kind(*tensors):
        _seen[way] = *kinds, kind
    return True


def _is_plain(x: Any, is_recorded: bool) -> bool:
    return type(x) in OWNING_TYPES and not x.is_neg() and not (is_recorded and x.requires_grad)
