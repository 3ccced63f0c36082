"""The road from the arguments of an operation to its result, the same for all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import contract, reference
from ..plan.layouts import Layout
from ..runtime import launcher


def run(
    layout: Layout,
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    out: Tensor | None,
    out_dtype: torch.dtype,
    index: Tensor | None = None,
    count: int = 0,
    *,
    validate: bool = False,
) -> Tensor:
    """The result of the operation of ``layout``: launched at once by a kernel that finds all in order.

    Else the contract explains what is not, by raising; or there is nothing to compute; or the reference
    computes it, on the CPU; or a kernel is chosen, and compiled if need be.
    """
    if torch.compiler.is_compiling():
        # Dynamo would trace the rules, and compile anew for whatever they look at: it breaks the graph here.
        from . import untraced

        return untraced.run(layout, lhs, rhs, out, out_dtype, index, count, validate=validate)
    if validate is False:
        launched = launcher.launch(layout, lhs, rhs, out, out_dtype, index, count)
        if launched is not None:
            return launched
    call = contract.check(layout, lhs, rhs, out, out_dtype, index, count, validate)
    if call.a.is_cpu or call.a.shape[-1] == 0 or 0 in call.shape:
        return reference.compute(call)
    return launcher.launch_checked(call)
