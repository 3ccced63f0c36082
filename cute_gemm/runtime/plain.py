"""Whether tensors are such that a kernel may be handed them: asked of each, but once for each way of calling it.

To ask a tensor five questions from Python takes longer than to convert it for a kernel. So the tensors of a
call are compared at once with those of calls that were in order. What is compared is a tensor's kind, and
nothing that changes while the tensor stays of that kind: where it lies, how large it is, and what else a
kernel's host code judges, is judged by that, each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, is_grad_enabled

from ..contract import OWNING_TYPES
from ..contract.quantizing import SCALE_DTYPE
from .caller import several_devices
from .torch_internals import derivatives_may_be_tracked, forward_mode_may_be_active, same_kind

_MOST_KINDS = 4
"""Ways of calling a kernel that are remembered: tensors made in inference mode and others, say."""

_seen: dict[tuple[Any, ...], tuple[Callable[..., bool], ...]] = {}
"""By a kernel, how many tensors, whether gradients are recorded, and a device: kinds of plain tensors."""


def forget() -> None:
    """Has each kernel's tensors be looked at one by one again."""
    _seen.clear()


def are_plain(kernel: Callable[..., None], read: tuple[Any, ...], results: tuple[Any, ...]) -> bool:
    """Whether all are tensors that own their memory, of which no derivative is asked.

    And whether, but for scales, columns are contiguous, as TVM FFI would raise else, which takes long; and
    whether the first tensor is on the current device.

    Args:
        kernel: what they are for.
        read: in the order of its arguments.
        results: those that are given, likewise.
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
    strides = [_stride_of_columns(each) for each in read]
    strides += [None if each.dtype is SCALE_DTYPE else _stride_of_columns(each) for each in results]
    if 0 in strides:
        return False
    if len(kinds) < _MOST_KINDS:
        _seen[way] = *kinds, same_kind(tensors, strides)
    return True


def _is_plain(x: Any, is_recorded: bool) -> bool:
    return type(x) in OWNING_TYPES and not x.is_neg() and not (is_recorded and x.requires_grad)


def _stride_of_columns(x: Tensor) -> int:
    """0 where columns are apart."""
    return x.stride()[-1] if x.is_contiguous() or x.stride()[-1] == 1 else 0
