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
from ..plan.recipe import FP8_1D2D
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
    """As :func:`.road.run`, of what ``epilogue`` makes of sums: where that is quantised, of pairs.

    As there, a call that is traced becomes an op.
    """
    if torch.compiler.is_compiling():
        from . import epilogued_traced

        return epilogued_traced.run(
            layout, lhs, rhs, out, out_dtype, index, count, epilogue, validate=validate, fill=fill
        )
    if validate is False and isinstance(epilogue, Epilogue):
        made = epilogued.launch_again(layout, lhs, rhs, out, out_dtype, index, count, fill, epilogue)
        if made is not None:
            return made
    from . import epilogued_traced

    if epilogued_traced.is_needed(lhs, rhs, out, index, epilogue):
        return epilogued_traced.run(
            layout, lhs, rhs, out, out_dtype, index, count, epilogue, validate=validate, fill=fill
        )
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
    call = checked(layout, lhs, rhs, out, out_dtype, index, count, epilogue, validate=validate, fill=fill)
    if reference.serves(call):
        result = reference.compute(call, epilogue.apply, epilogue.power_of_two_scales)
    else:
        result = epilogued.launch(call, epilogue.applied)
    return result if call.scales_out is None else (result, call.scales_out)


def checked(
    layout: Layout,
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    out: Any,
    out_dtype: torch.dtype,
    index: Tensor | None,
    count: int,
    epilogue: Epilogue,
    *,
    validate: bool,
    fill: int | None,
    has_memory: bool = True,
) -> contract.Call:
    """The call, in order, with what is to be written where that is quantised.

    Args:
        layout, lhs, rhs, out, out_dtype, index, count, epilogue, validate, fill: as of :func:`run`.
        has_memory: as of :func:`cute_gemm.contract.check`.

    Raises:
        TypeError, ValueError, RuntimeError: it is not in order.
    """
    given = layout, lhs, rhs, out, out_dtype, index, count, validate
    recipe = FP8_1D2D  # no other has kernels with an epilogue
    call = contract.check(*given, has_memory=has_memory, form=epilogue.form, fill=fill, recipe=recipe)
    epilogue.check(call, has_memory)
    if not isinstance(epilogue, QuantizingEpilogue):
        return call
    made = quantized_results(call.a, call.shape, call.out, call.scales_out, epilogue.has_m_major_scales)
    return replace(call, out=made[0], scales_out=made[1])


def quantized_results(
    a: Tensor, shape: tuple[int, ...], q: Tensor | None, s: Tensor | None, has_m_major_scales: bool
) -> tuple[Tensor, Tensor]:
    """Both, of which either may be given: e4m3 of a shape, and its scales."""
    if q is None:
        q = a.new_empty(shape, dtype=quantizing.E4M3)
    if s is None:
        of_scales = (*shape[:-1], quantizing.scale_blocks(shape[-1]))
        strides = quantizers.strides_of_scales(of_scales, has_m_major_scales)
        s = a.new_empty_strided(of_scales, strides, dtype=quantizing.SCALE_DTYPE)
    return q, s
