"""Where a weight's gradient goes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import operands

Product = Callable[[Tensor | None, torch.dtype], Tensor]
"""Computes a gradient: a new tensor of FP32 or bf16, as asked; or added to the FP32 tensor that is given."""


def deliver(weight: Tensor, parameter: Tensor | None, product: Product) -> Tensor | None:
    """Adds to ``parameter.main_grad`` if there is one; else autograd is to add to ``parameter.grad``.

    The convention of ``main_grad`` is Megatron's. Where a parameter has ``grad_added_to_main_grad``, too,
    that becomes True, and autograd gets a tensor without meaning (of zeros, where ``zero_out_wgrad`` is
    True), which hooks of the parameter wait for and drop. Else it gets None.

    Args:
        weight: what the gradient is of.
        parameter: the very object that users know; None where that is not known, as in traced code, and
            ``main_grad`` is not looked for.
        product: of its gradient.

    Returns:
        What ``backward`` returns of the weight, in the dtype of the weight.
    """
    main = getattr(parameter, "main_grad", None)
    if parameter is None or main is None:
        return product(None, operands.product_dtype(weight.dtype)).to(weight.dtype)
    if main.dtype is torch.float32:
        product(main, main.dtype)
    else:
        main.add_(product(None, torch.float32))
    if not hasattr(parameter, "grad_added_to_main_grad"):
        return None
    parameter.grad_added_to_main_grad = True
    make = torch.zeros_like if getattr(parameter, "zero_out_wgrad", False) else torch.empty_like
    return make(parameter, requires_grad=False)


def require_first() -> None:
    """Backward is not to be differentiated itself.

    Raises:
        RuntimeError: it is.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            "a gradient of an FP8 layer is wanted with `create_graph=True`, but its gradients have none of "
            "their own; wanted `create_graph=False`, or torch.nn.Linear for this layer"
        )
