"""Every rule of a call, once, beside what is said where it is broken.

It runs where the fast path of :mod:`cute_gemm.runtime.launcher` has declined, and for CPU tensors, which obey
the same rules, so that what runs on a laptop runs on a GPU. So it may be slow, and must be clear. Nothing is
remembered from call to call: a tensor that was fine may have been resized, freed or moved since.

    operands.py   A, B and their scales            grouping.py  groups, index vectors, what `validate` reads
    result.py     `out` and its dtype              memory.py    addresses, strides, devices, overlap, of any
    ambient.py    gradients, transforms, modes     options.py   what is said beside tensors
    sizes.py      where a size is not known yet    words.py     how messages spell tensors and calls
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..plan.layouts import DENSE, Layout, resolve
from ..plan.recipe import FP8_1D2D, Recipe
from . import ambient, grouping, memory, operands, options, result
from .memory import OWNING_TYPES
from .quantizing import E4M3
from .result import PLAIN, ResultForm


@dataclass(frozen=True)
class Call:
    """A call that obeys all rules.

    Args:
        layout: of its operation.
        a, sa, b, sb: operands and their scales.
        out: where to write; None to allocate.
        out_dtype: of the result.
        shape: of the result.
        index: says which rows are whose, if the layout has one.
        count: the number that goes with it, or 0.
        form: what an epilogue makes of the result.
        scales_out: where to write scales, if the result is quantised; None to allocate.
        fill: what is written to rows of no group: 0, or None for nothing.
        recipe: types of the operands, and what of them shares a scale.
        accumulate: the sums are added to what `out` holds.
    """

    layout: Layout
    a: Tensor
    sa: Tensor
    b: Tensor
    sb: Tensor
    out: Tensor | None
    out_dtype: torch.dtype
    shape: tuple[int, ...]
    index: Tensor | None
    count: int
    form: ResultForm = PLAIN
    scales_out: Tensor | None = None
    fill: int | None = None
    recipe: Recipe = FP8_1D2D
    accumulate: bool = False

    @property
    def shape_of_sums(self) -> tuple[int, ...]:
        """Of what an epilogue is given."""
        return (*self.a.shape[:-1], self.b.shape[-2])

    @property
    def written(self) -> dict[str, Tensor]:
        """The results that are given, by the names of messages."""
        names = self.form.names
        return {name: x for name, x in zip(names, (self.out, self.scales_out), strict=False) if x is not None}


def check(
    layout: Layout,
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    out: Any,
    out_dtype: torch.dtype,
    index: Tensor | None,
    count: int,
    validate: bool,
    *,
    has_memory: bool = True,
    form: ResultForm = PLAIN,
    fill: int | None = None,
    recipe: Recipe | None = None,
    accumulate: bool = False,
) -> Call:
    """Checks the arguments of an operation, whatever they are.

    Args:
        layout: of the operation.
        lhs, rhs, out, out_dtype: as of :func:`cute_gemm.fp8_gemm_nt`.
        index, count: what the layout's :attr:`Layout.index` and :attr:`Layout.count` say.
        validate: look at what the index holds, too.
        has_memory: whether the tensors are there. Else they are stand-ins, as `FakeTensorMode` and compilers
            have them: their memory is not judged, nor sizes that are not known yet.
        form: what an epilogue makes of the result; where that is quantised, `out` is a pair.
        fill: what is to be written to rows of no group, or None.
        recipe: types of the operands, and what of them shares a scale: where a kernel's author has one of
            his own; else None, for :func:`operands.recipe_of`.
        accumulate: add the sums to what `out` holds.

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: a shape, layout, device, overlap or derivative that cannot be used, or what ``validate``
            finds.
        RuntimeError: ``validate`` in the capture of a CUDA graph.
    """
    options.require_flag("validate", validate)
    options.require_fill(fill, is_quantized=form.is_quantized)
    if layout.count is not None:
        grouping.require_count(layout.count, count)
    if recipe is None:
        recipe = operands.recipe_of(rhs) if layout is DENSE else FP8_1D2D
    of_a, of_b = operands.roles(recipe)
    a, sa = operands.require_operand(of_a, lhs, layout.a_rank, has_memory=has_memory)
    b, sb = operands.require_operand(of_b, rhs, layout.b_rank, depth=a.shape[-1], has_memory=has_memory)
    if layout.has_matrix_per_group:
        grouping.require_matrix_for_each_group(a, b)
    inputs = {"a": a, "sa": sa, "b": b, "sb": sb}
    memory.require_one_device(**inputs)
    if has_memory or not a.is_meta:
        memory.require_known_device("a", a)
    ambient.require_no_derivatives(**inputs)

    result.require_accumulate(accumulate, out, has_memory)
    result.require_columns(form, b.shape[-2])
    shape = (*a.shape[:-1], b.shape[-2] // form.narrowing)
    scales_out = None
    if form.is_quantized:
        out, scales_out = result.require_quantized(out, out_dtype, shape, inputs, has_memory=has_memory)
        out_dtype = E4M3
    elif out is None:
        result.require_out_dtype(out_dtype)
    else:
        result.require_result(out, out_dtype, shape, has_memory=has_memory)
        memory.require_one_device(**inputs, out=out)
        ambient.require_no_derivatives(out=out)
        for name, x in inputs.items() if has_memory else ():
            memory.require_disjoint(name, x, out)

    if has_memory:
        # Of its own memory `a` has shown the address; what a transform that differentiates makes has none.
        ambient.require_no_transform("a", a.new_empty(0))

    if layout.is_grouped:
        grouping.require_groups(b)
    if layout.index is not None:
        name = layout.index.name
        length = a.shape[-2] if layout.index.axis == "M" else b.shape[0]
        index = grouping.require_index(layout.index, index, length, has_memory=has_memory)
        memory.require_one_device(**inputs, **{name: index})
        if has_memory:
            for written, x in zip(form.names, (out, scales_out), strict=False):
                if x is not None:
                    memory.require_disjoint(name, index, x, written)
        if validate and has_memory:
            resolve(layout.validation)(index, count, a.shape[-2], len(b))
    dtype = out_dtype if out is None else out.dtype
    return Call(
        layout, a, sa, b, sb, out, dtype, shape, index, count, form, scales_out, fill, recipe, accumulate
    )


__all__ = ["OWNING_TYPES", "PLAIN", "Call", "ResultForm", "check"]
