"""The road of a product with an epilogue: checked, then launched, or computed by the reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import contract, reference
from ..contract import quantizing, words
from ..epilogue.chain import Epilogue, QuantizingEpilogue
from ..plan.layouts import Layout
from ..runtime import epilogued, quantizers


def run(
    layout: Layout,
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    out: Any,
    out_dtype: torch.dtype,
    index: Tensor | None,
    count: int,
    epilogue: Epilogue,
    *,
    validate: bool = False,
    fill: int | None = None,
) -> Any:
    """As :func:`.road.run`, of what ``epilogue`` makes of sums: where that is quantised, of pairs."""
    if torch.compiler.is_compiling():
        from . import untraced

        return untraced.epilogued(layout, lhs, rhs, out, out_dtype, index, count, epilogue, validate, fill)
    if validate is False and isinstance(epilogue, Epilogue):
        made = epilogued.launch_again(layout, lhs, rhs, out, out_dtype, index, count, fill, epilogue)
        if made is not None:
            return made
    return run_checked(layout, lhs, rhs, out, out_dtype, index, count, epilogue, validate, fill)


def run_checked(
    layout: Layout,
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    out: Any,
    out_dtype: torch.dtype,
    index: Tensor | None,
    count: int,
    epilogue: Epilogue,
    validate: bool,
    fill: int | None,
) -> Any:
    """The result, or an error that says what is not in order."""
    if not isinstance(epilogue, Epilogue):
        raise TypeError(
            f"epilogue is {words.kind(epilogue)}; wanted one of cute_gemm.epilogue, such as "
            "`cute_gemm.epilogue.bias_silu(bias)`"
        )
    call = contract.check(
        layout, lhs, rhs, out, out_dtype, index, count, validate, form=epilogue.form, fill=fill
    )
    epilogue.check(call)
    if isinstance(epilogue, QuantizingEpilogue):
        call = _with_results(call, epilogue.m_major_scales)
    if reference.serves(call):
        result = reference.compute(call, epilogue.apply, epilogue.power_of_two_scales)
    else:
        result = epilogued.launch(call, epilogue.applied)
    return result if call.scales_out is None else (result, call.scales_out)


def _with_results(call: contract.Call, has_m_major_scales: bool) -> contract.Call:
    """A call whose quantised results are there."""
    shape = (*call.shape[:-1], quantizing.scale_blocks(call.shape[-1]))
    q = call.a.new_empty(call.shape, dtype=quantizing.E4M3) if call.out is None else call.out
    s = call.scales_out
    if s is None:
        strides = quantizers.strides_of_scales(shape, has_m_major_scales)
        s = call.a.new_empty_strided(shape, strides, dtype=quantizing.SCALE_DTYPE)
    return replace(call, out=q, scales_out=s)
