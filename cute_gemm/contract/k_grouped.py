"""A product of groups of columns: each rule that only it has, beside what is said where it is broken.

As :mod:`cute_gemm.contract` is for the other products; rules on memory, and on one matrix, are theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..column_groups import scale_columns
from ..plan.layouts import K_GROUPED
from ..plan.layouts.base import Index
from ..plan.limits import MAX_GROUPS, OUT_BYTES
from ..plan.recipe import FP8_1D1D
from . import Call, ambient, grouping, memory, operands, options, sizes, words
from .operands import Role

_ENDS = Index("ends", "G")
_DEFAULT = torch.float32
_DTYPES = tuple(getattr(torch, name) for name in OUT_BYTES)


@dataclass(frozen=True)
class KGroupedCall:
    """A call that obeys all rules.

    Args:
        a, sa, b, sb: operands and their scales.
        offsets: where groups begin, and the last one ends.
        out: where to write or to add to; None to allocate.
        out_dtype: of the result.
        shape: of the result, ``(G, M, N)``.
        accumulate: the sums are added to what ``out`` holds.
    """

    a: Tensor
    sa: Tensor
    b: Tensor
    sb: Tensor
    offsets: Tensor
    out: Tensor | None
    out_dtype: torch.dtype
    shape: tuple[int, ...]
    accumulate: bool

    @property
    def launched(self) -> Call:
        """The same, as kernels are launched for."""
        operands = self.a, self.sa, self.b, self.sb
        given = *operands, self.out, self.out_dtype, self.shape, self.offsets, 0
        return Call(K_GROUPED, *given, recipe=FP8_1D1D, accumulate=self.accumulate)


@dataclass(frozen=True)
class _Role(Role):
    """An operand that is quantised by tokens, of which the source has rows."""

    def quantize_call(self, source: str) -> str:
        tokens = "x" if source == "x" else f"{source}.t()"
        return f"{self.name}, s{self.name} = cute_gemm.quantize_k_grouped({tokens}, offsets)"


_ROLES = tuple(
    _Role(each.name, each.dtype, each.rows_per_scale, each.row_multiple, each.recipe)
    for each in operands.roles(FP8_1D1D)
)


def check(
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    offsets: Tensor,
    out: Tensor | None,
    out_dtype: torch.dtype,
    accumulate: bool,
    *,
    has_memory: bool = True,
) -> KGroupedCall:
    """Checks the arguments of :func:`cute_gemm.k_grouped_fp8_gemm_nt`, whatever they are.

    Args:
        lhs, rhs, offsets, out, out_dtype, accumulate: the arguments.
        has_memory: whether the tensors are there, as of :func:`cute_gemm.contract.check`.

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: a shape, layout, device, overlap or derivative that cannot be used.
    """
    options.require_flag("accumulate", accumulate)
    of_a, of_b = _ROLES
    a, sa = operands.unpack(of_a, lhs)
    b, sb = operands.unpack(of_b, rhs)
    for role, q in ((of_a, a), (of_b, b)):
        operands.require_matrix(role, q, 2, has_memory=has_memory)
    _require_same_columns(a, b)
    offsets = require_offsets(offsets, has_memory=has_memory)
    groups = offsets.shape[0] - 1
    columns = scale_columns(a.shape[1], groups)
    for role, s, q in ((of_a, sa, a), (of_b, sb, b)):
        operands.require_scale_kind(role, s, columns, has_memory=has_memory)
        _require_scale_shape(role, s, (q.shape[0], columns))
        if has_memory:
            operands.require_scale_memory(role, s)
    inputs = {"a": a, "sa": sa, "b": b, "sb": sb, "offsets": offsets}
    memory.require_one_device(**inputs)
    if has_memory or not a.is_meta:
        memory.require_known_device("a", a)
    ambient.require_no_derivatives(**inputs)

    shape = (groups, a.shape[0], b.shape[0])
    if out is None:
        _require_out_dtype(out_dtype)
        if accumulate:
            zeros = words.allocate(shape, _DEFAULT, a.device).split("`")[1].replace("empty", "zeros")
            raise ValueError(f"out is None, and accumulate is True; wanted what is to be added to: `{zeros}`")
    else:
        _require_result(out, out_dtype, shape, accumulate, has_memory)
        memory.require_one_device(**inputs, out=out)
        ambient.require_no_derivatives(out=out)
        for name, x in inputs.items() if has_memory else ():
            memory.require_disjoint(name, x, out)
    if has_memory:
        # Of its own memory `a` has shown the address; what a transform that differentiates makes has none.
        ambient.require_no_transform("a", a.new_empty(0))
    dtype = out_dtype if out is None else out.dtype
    return KGroupedCall(a, sa, b, sb, offsets, out, dtype, shape, accumulate)


def require_offsets(offsets: object, *, has_memory: bool = True) -> Tensor:
    """Where each group begins, and the last one ends: an int32 vector that kernels read.

    Raises:
        TypeError: it is no tensor, or has another dtype.
        ValueError: its shape or memory is not what kernels read, or there are no groups, or too many.
    """
    offsets = memory.require_own_memory("offsets", offsets, has_memory)
    was = f"offsets has shape {tuple(offsets.shape)}"
    if offsets.dim() != 1:
        raise ValueError(f"{was}; wanted [G + 1]: where each group begins, and where the last one ends")
    length = offsets.shape[0]
    if sizes.known(length < 2) or sizes.known(length > MAX_GROUPS + 1):
        fix = ": one call for each part of them" if length > 1 else ""
        raise ValueError(f"{was}, so G = {length - 1}; wanted 1 to {MAX_GROUPS} groups{fix}")
    return grouping.require_index(K_GROUPED.index, offsets, length, has_memory=has_memory)


def require_ends(ends: object, groups: int, *, has_memory: bool = True) -> Tensor:
    """The row behind each group's last: an int32 vector that kernels read.

    Raises:
        TypeError: it is no tensor, or has another dtype.
        ValueError: its shape or memory is not what kernels read.
    """
    ends = memory.require_own_memory("ends", ends, has_memory)
    if sizes.differ(ends.shape, (groups,)):
        raise ValueError(
            f"ends has shape {tuple(ends.shape)}; wanted [{groups}], the row behind each group's last, as "
            f"offsets has {groups + 1} elements"
        )
    return grouping.require_index(_ENDS, ends, groups, has_memory=has_memory)


def _require_same_columns(a: Tensor, b: Tensor) -> None:
    """Both have the columns of all groups."""
    if not sizes.known(a.shape[1] != b.shape[1]):
        return
    fix = ""
    if sizes.known(b.shape[0] == a.shape[1]):
        call = "b.t()" + ("" if b.stride(0) == 1 else ".contiguous()")
        fix = f": if it is stored as [K, N], pass `{call}`, with scales [N, K // 128 + G]"
    raise ValueError(
        f"b has shape {tuple(b.shape)}, so K = {b.shape[1]}, but a has K = {a.shape[1]}; wanted "
        f"[N, {a.shape[1]}]{fix}"
    )


def _require_scale_shape(role: Role, s: Tensor, wanted: tuple[int, int]) -> None:
    """There is a column for each block that groups may have."""
    if not sizes.differ(s.shape, wanted):
        return
    name, shape = f"s{role.name}", tuple(s.shape)
    if not sizes.differ(shape, wanted[::-1]):
        fix = f"it looks transposed, `{name}.t()` will do as it is"
    elif not sizes.differ(shape, (wanted[0], wanted[1] + 1)):
        fix = "if offsets lack the 0 where the first group begins, `torch.nn.functional.pad(offsets, (1, 0))`"
    else:
        fix = f"`{role.quantize_call('x')}` makes both"
    symbol = {"a": "M", "b": "N"}[role.name]
    raise ValueError(f"{name} has shape {shape}; wanted [{symbol}, K // 128 + G] = {wanted}: {fix}")


def _require_out_dtype(out_dtype: Any) -> None:
    """It is one that kernels store."""
    if any(out_dtype is dtype for dtype in _DTYPES):
        return
    raise TypeError(f"out_dtype is {out_dtype!r}; wanted {' or '.join(f'`{dtype}`' for dtype in _DTYPES)}")


def _require_result(
    out: object, out_dtype: Any, shape: tuple[int, ...], accumulate: bool, has_memory: bool
) -> None:
    """A matrix of each group, whose rows are contiguous."""
    out = memory.require_own_memory("out", out, has_memory)
    fix = words.allocate(shape, _DEFAULT, out.device)
    if accumulate and out.dtype is not _DEFAULT:
        raise TypeError(f"out has dtype {out.dtype}, and accumulate is True; wanted {_DEFAULT}: {fix}")
    if not any(out.dtype is dtype for dtype in _DTYPES):
        raise TypeError(f"out has dtype {out.dtype}; wanted {' or '.join(map(str, _DTYPES))}: {fix}")
    if not agree(out, out_dtype):
        raise TypeError(
            f"out_dtype is {out_dtype!r}, but out has dtype {out.dtype}; wanted the same, or no `out_dtype`, "
            f"as a given `out` decides: `torch.empty_like(out, dtype={out_dtype!r})`"
        )
    memory.require_strided("out", out, has_memory)
    if sizes.differ(out.shape, shape):
        raise ValueError(f"out has shape {tuple(out.shape)}; wanted [G, M, N] = {shape}: {fix}")
    if has_memory:
        memory.require_tma("out", out)


def agree(out: Tensor | None, out_dtype: object) -> bool:
    """Whether `out` and `out_dtype` ask for the same thing; without `out`, for one that kernels store."""
    if out is None:
        return any(out_dtype is dtype for dtype in _DTYPES)
    return out_dtype is _DEFAULT or out_dtype is out.dtype
