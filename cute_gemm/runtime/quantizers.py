"""From a call that quantises to a launch: the road of :mod:`.launcher`, for other kernels.

    fast path   :func:`launch_known`   what asks for a kernel that ran before -> its host code checks it all
    slow path   :func:`launch`         configuration -> compiled now, or found -> the same host code

A kernel's host code judges what it is given. Where it declines on the slow path, too, torch quantises on the
same device: K is no multiple of 16, say, or rows do not begin on 16 bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from .. import settings
from ..contract import OWNING_TYPES
from ..plan.launch_policy import LaunchFlags
from ..plan.limits import K_MULTIPLE, SCALE_STRIDE_MULTIPLE, ceil_div
from ..plan.moe import MoeConfig
from ..plan.quantizer import PIECE, SOURCE_BYTES, Quantizer
from . import hardware, plain, quantizer_builder, selection
from .caller import caller
from .torch_internals import increment_version

NAMES = {getattr(torch, name): name for name in (*SOURCE_BYTES, "int32", "int64")}
"""Of dtypes, as configurations have them."""

_kernels: dict[Hashable, Callable[..., None]] = {}
"""By what asks for them: kernels that the slow path has launched."""


def forget() -> None:
    """Has the next call of each kind take the slow path, as in a new process."""
    _kernels.clear()
    plain.forget()


# A forked child cannot use the CUDA of its parent: nothing is launched there, and torch says so.
os.register_at_fork(after_in_child=forget)


def known(key: Hashable) -> Callable[..., None] | None:
    """The kernel that was launched for ``key``, which names a device."""
    return _kernels.get(key)


def launch_known(
    kernel: Callable[..., None], arguments: tuple[Any, ...], behind: tuple[Any, ...] = ()
) -> bool:
    """Launches ``kernel`` on the current stream if its host code finds the arguments in order.

    Args:
        kernel: as :func:`known` gives it, for the device of all tensors.
        arguments, behind: what it takes before its flags, and behind its status.

    Returns:
        Whether it has; else nothing was done.
    """
    try:
        return call(kernel, arguments, behind)
    except (TypeError, ValueError, RuntimeError):
        return False


_AT_ONCE, _DEPENDENT = int(LaunchFlags(0)), int(LaunchFlags.PDL)


def call(kernel: Callable[..., None], arguments: tuple[Any, ...], behind: tuple[Any, ...]) -> bool:
    """:func:`launch_known`, but what the host code was not compiled for is an error.

    Raises:
        TypeError, ValueError, RuntimeError: there is such an argument; nothing was done.
    """
    if not caller.has_context:
        caller.get_ready()
    launched = caller.launched
    launched.value = 0
    flags = _AT_ONCE if settings.current().dependent_launch is False else _DEPENDENT
    kernel(*arguments, flags, caller.address, *behind)
    return launched.value != 0


def launch(
    key: Hashable,
    config: Quantizer | MoeConfig,
    device: int,
    arguments: tuple[Any, ...],
    behind: tuple[Any, ...] = (),
) -> bool:
    """Launches the kernel of ``config`` on the current stream of a device, and remembers it for ``key``.

    Args:
        key: what asks for it; it names the device.
        config: the kernel's, which is compiled now if need be.
        device: that of all tensors.
        arguments, behind: as of :func:`launch_known`.

    Returns:
        As of :func:`launch_known`.

    Raises:
        ImportError: the DSL is missing.
        RuntimeError: a CUDA graph is being captured, and the kernel was not launched before on this device.

    Warns:
        KernelWarning: it was compiled now, and spills.
    """
    with torch.cuda.device(device):
        selection.require_loaded(config, f"quantising needs the kernel {config.name}", "", device)
        kernel = quantizer_builder.instance(config)
        if not call(kernel, arguments, behind):
            return False
        selection.note_launched(config, device)
    _kernels[key] = kernel
    return True


def may_launch(read: tuple[Tensor, ...], results: tuple[Tensor, ...], behind: tuple[Tensor, ...]) -> bool:
    """Whether there is something to quantise, on a Hopper GPU, in tensors that its kernels take.

    Their host code judges all of this again, and more. But what it would decline must not be compiled for,
    nor refused where a CUDA graph is being captured.

    Args:
        read: in front of results, the first of which is quantised, by one matrix or several.
        results: e4m3 and scales in turn.
        behind: further tensors; vectors have any alignment.
    """
    x, matrices = read[0], results[::2]
    if not is_on_hopper(x):
        return False
    if x.dim() not in (2, 3) or not are_in_memory(*read, *results, *behind):
        return False
    if not all(map(is_aligned, (*read, *matrices, *(each for each in behind if each.dim() > 1)))):
        return False
    if any(each.shape[-1] % K_MULTIPLE for each in matrices):
        return False
    return all(each.stride(-1) == 1 or each.stride(-2) == 1 for each in results[1::2])


def is_on_hopper(x: Tensor) -> bool:
    """Whether it owns memory of a GPU that kernels are for."""
    return type(x) in OWNING_TYPES and x.is_cuda and hardware.is_hopper(x.get_device())


def are_in_memory(*tensors: Tensor) -> bool:
    """Whether each has elements, and memory holds them as they are: no negation is pending."""
    return all(each.numel() and not each.is_neg() for each in tensors)


def is_aligned(x: Tensor) -> bool:
    """Whether rows are contiguous, and begin where a thread can load at once."""
    size = x.element_size()
    steps = [step * size for step, count in zip(x.stride()[:-1], x.shape[:-1], strict=True) if count > 1]
    return x.stride(-1) == 1 and not x.data_ptr() % PIECE and not any(step % PIECE for step in steps)


def strides_of_scales(shape: tuple[int, ...], m_major: bool) -> tuple[int, ...]:
    """Strides of scales ``[..., M, K / 128]``: row-major, or M-major and padded as TMA wants it."""
    if len(shape) == 1:
        return (1,)
    *matrices, rows, columns = shape
    pitch = ceil_div(rows, SCALE_STRIDE_MULTIPLE) * SCALE_STRIDE_MULTIPLE if m_major else columns
    strides, size = ([1, pitch], columns * pitch) if m_major else ([columns, 1], rows * columns)
    for count in reversed(matrices):
        strides.insert(0, size)
        size *= count
    return tuple(strides)


def written(given: tuple[Tensor | None, ...]) -> None:
    """Says of results that were given that they have changed: autograd would not notice otherwise."""
    increment_version([each for each in given if each is not None])
