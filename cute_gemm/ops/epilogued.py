"""The road of a product with an epilogue: checked, then launched, or computed by the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import contract, reference
from ..contract import words
from ..epilogue.chain import Epilogue
from ..plan.layouts import Layout
from ..runtime import epilogued


def run(
    layout: Layout,
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    out: Tensor | None,
    out_dtype: torch.dtype,
    index: Tensor | None,
    count: int,
    epilogue: Epilogue,
    *,
    validate: bool = False,
) -> Tensor:
    """As :func:`.road.run`, of what ``epilogue`` makes of sums."""
    if torch.compiler.is_compiling():
        from . import untraced

        return untraced.epilogued(layout, lhs, rhs, out, out_dtype, index, count, epilogue, validate)
    return run_checked(layout, lhs, rhs, out, out_dtype, index, count, epilogue, validate)


def run_checked(
    layout: Layout,
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    out: Tensor | None,
    out_dtype: torch.dtype,
    index: Tensor | None,
    count: int,
    epilogue: Epilogue,
    validate: bool,
) -> Tensor:
    """The result, or an error that says what is not in order."""
    if not isinstance(epilogue, Epilogue):
        raise TypeError(
            f"epilogue is {words.kind(epilogue)}; wanted one of cute_gemm.epilogue, such as "
            "`cute_gemm.epilogue.bias_silu(bias)`"
        )
    call = contract.check(layout, lhs, rhs, out, out_dtype, index, count, validate)
    epilogue.check(call)
    if reference.serves(call):
        return reference.compute(call, epilogue.apply)
    return epilogued.launch(call, epilogue.applied)
