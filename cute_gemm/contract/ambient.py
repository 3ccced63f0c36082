"""What is set around a call, by torch or by its caller, changes no result: it is without effect, or refused.

=======================  ==============================================================================
gradients                refused while grad mode records them, in words that name ``.detach()``
forward-mode AD          refused wherever a tensor carries a tangent, with or without grad mode
torch.func               refused inside ``grad``, ``jvp`` and their like, and of tensors that ``vmap`` maps;
                         an ordinary call of those it does not map
torch.compile            a product, and quantising, is an op of the graph; dequantising is traced
autocast                 without effect: on the CPU by :func:`no_autocast`, kernels know nothing of it
default dtype, device    without effect: dtypes and devices are those of the operands
matmul precision, TF32   without effect: the reference multiplies in FP64, which has no such modes
deterministic mode       without effect on what is written; rows that are not may be filled with NaN
inference mode           without effect, in it and out of it, for tensors made under it or not
CUDA graph capture       as the operations say; nothing on a device is read
=======================  ==============================================================================

These hold for every operation, on the CPU and on GPUs, and for quantising and dequantising.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import words


def require_no_derivatives(**tensors: Tensor) -> None:
    """No tensor asks for a derivative, which would be lost without a word.

    Raises:
        ValueError: one does.
    """
    require_no_gradient(**tensors)
    require_no_tangent(**tensors)


def require_no_tangent(**tensors: Tensor) -> None:
    """No tensor carries a tangent of forward-mode AD, which does not ask for grad mode.

    Raises:
        ValueError: one does.
    """
    for name, x in tensors.items():
        # Public, and None outside of forward-mode AD and inside the forward of a torch.autograd.Function.
        if forward_ad.unpack_dual(x).tangent is not None:
            raise ValueError(
                f"{name} carries a tangent of forward-mode AD, which this operation does not compute; wanted "
                f"`{name}.detach()`, or a call inside a torch.autograd.Function with a `jvp`"
            )


def require_no_gradient(**tensors: Tensor) -> None:
    """No tensor requires a gradient while gradients are recorded.

    Raises:
        ValueError: one does.
    """
    if not torch.is_grad_enabled():
        return
    for name, x in tensors.items():
        if x.requires_grad:
            raise ValueError(
                f"{name} requires a gradient, which this operation does not compute; wanted "
                f"`{name}.detach()`, or a call under `torch.no_grad()` or inside a torch.autograd.Function"
            )


def require_no_transform(name: str, x: Tensor) -> None:
    """No transform of torch.func wraps it: that would lose what the transform tracks, or hide the memory.

    Raises:
        ValueError: one does.
    """
    try:
        x.data_ptr()
    except RuntimeError as error:
        raise ValueError(in_a_transform(name)) from error


def in_a_transform(name: str) -> str:
    """What is said of a tensor, or of a call, that is inside a transform of torch.func."""
    return (
        f"{name} is used inside a transform of torch.func, such as vmap, grad or jvp, which this "
        "operation takes no part in; wanted a call outside of it, or inside a torch.autograd.Function"
    )


def in_forward_mode(name: str) -> str:
    """What is said of a call that is inside a level of forward-mode AD, where no tensor may be looked at."""
    return (
        f"{name} is used inside forward-mode AD, which this operation does not compute; wanted a call "
        "outside of it, or inside a torch.autograd.Function with a `jvp`"
    )


def require_no_negation(name: str, x: Tensor) -> None:
    """Its values are in memory: no negation is pending, as it is in the imaginary part of a conjugate.

    Raises:
        ValueError: one is pending.
    """
    if x.is_neg():
        raise ValueError(
            f"{name} is part of a conjugated complex tensor, a view with a pending negation; wanted its "
            f"values in memory: {words.remake(name, x, 'resolve_neg')}"
        )


def require_no_capture(name: str, x: Tensor) -> None:
    """The host can read a vector: no CUDA graph is being captured, during which nothing is computed.

    Raises:
        RuntimeError: one is.
    """
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"validate=True reads {name}, which has no values while a CUDA graph is being captured; wanted "
            "validate=False there, or a call before the capture"
        )


def no_autocast(device: torch.device) -> AbstractContextManager[None]:
    """A scope in which autocast lowers no dtype of what torch computes on a device of this kind."""
    kind = device.type
    # Of a device without autocast torch refuses to say whether it is on. Dynamo of torch 2.8 cannot trace the
    # call that tells, so the usual devices are named.
    has_autocast = kind in ("cpu", "cuda") or torch.amp.is_autocast_available(kind)
    if has_autocast and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
