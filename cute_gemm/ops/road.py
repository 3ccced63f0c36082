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
    fill: int | None = None,
    accumulate: bool = False,
) -> Tensor:
    """The result of the operation of ``layout``: launched at once by a kernel that finds all in order.

    Else the slow path, :func:`run_checked`. Where a call is traced, or its tensors are fake, it becomes an op
    of torch's dispatcher.
    """
    if torch.compiler.is_compiling():
        # Dynamo would trace the rules, and compile anew for whatever they look at: it sees an op.
        from . import traced

        return traced.run(layout, lhs, rhs, out, out_dtype, index, count, validate, fill, accumulate)
    if validate is False:
        launched = launcher.launch(
            layout, lhs, rhs, out, out_dtype, index, count, fill, accumulate=accumulate
        )
        if launched is not None:
            return launched
    from . import traced

    if traced.is_needed(lhs, rhs, out, index):
        return traced.run(layout, lhs, rhs, out, out_dtype, index, count, validate, fill, accumulate)
    return run_checked(layout, lhs, rhs, out, out_dtype, index, count, validate, fill, accumulate)


def run_checked(
    layout: Layout,
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    out: Tensor | None,
    out_dtype: torch.dtype,
    index: Tensor | None,
    count: int,
    validate: bool,
    fill: int | None,
    accumulate: bool = False,
) -> Tensor:
    """The result, or an error that says what is not in order.

    There is nothing to compute; or the reference computes it, on the CPU; or a kernel is chosen, and compiled
    if need be.
    """
    given = layout, lhs, rhs, out, out_dtype, index, count, validate
    call = contract.check(*given, fill=fill, accumulate=accumulate)
    if reference.serves(call):
        return reference.compute(call)
    if call.accumulate and not call.recipe.scales_columns:
        from . import dense

        return dense.accumulated(lhs, rhs, out, out_dtype)
    return launcher.launch_checked(call)
