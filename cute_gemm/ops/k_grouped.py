"""Products of groups of columns, each with a result of its own: what they promise, and their road."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference_k_grouped as reference
from .. import settings
from ..contract import k_grouped as contract
from ..plan.layouts import K_GROUPED
from ..runtime import launcher, torch_internals
from . import library, traced

_NAME = "k_grouped_fp8_gemm_nt"


def k_grouped_fp8_gemm_nt(
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    /,
    offsets: Tensor,
    out: Tensor | None = None,
    *,
    out_dtype: torch.dtype = torch.float32,
    accumulate: bool = False,
) -> Tensor:
    """For each group of columns, a product of its own: gradients of experts' weights, summed over tokens.

    `D[g]` is `A[:, g] @ B[:, g].T`, where g stands for columns `offsets[g]` to `offsets[g + 1] - 1`, or is
    added to what `D[g]` holds. K-blocks of 128 columns begin at each group's first; the last one of a group
    may be shorter. Of each, partial sums times both scales are added up in FP32, as :func:`fp8_gemm_nt` does.
    Which columns are whose only the device knows.

    Args:
        lhs: the pair `(a, sa)`. `a` is A, torch.float8_e4m3fn `[M, K]`, K being the tokens of all groups
            together; `sa` its scales, torch.float32 `[M, K // 128 + G]`: those of block j of group g stand in
            column `offsets[g] // 128 + g + j`. No two blocks share one, as this is `first // 128 + g` of the
            block's first column: it grows from block to block, and from a group to the next. Other columns
            are not read. :func:`cute_gemm.quantize_k_grouped` makes both of tokens `[K, M]`.
        rhs: the pair `(b, sb)`, the same of B `[N, K]`.
        offsets: torch.int32 `[G + 1]`, contiguous, 1 <= G <= 1022: where each group begins, then where the
            last ends; ascending multiples of 16 from 0 to K. A group may be empty. Columns before the first
            and behind the last are of no group.
        out: where to write, or what to add to, torch.float32 or torch.bfloat16 `[G, M, N]`; None allocates
            it. It may have gaps between matrices and between rows.
        out_dtype: the type of an allocated result. A given `out` decides by its own.
        accumulate: add to what `out` holds, which must be given and torch.float32.

    An empty group's matrix becomes zero; with `accumulate` it stays as it is. What columns of no group hold
    does not matter.

    Nothing on the host depends on what `offsets` holds, and no value in it leads to a read or a write out of
    bounds: each is clamped to 0..K and rounded down to a multiple of 16, and a group that ends before it
    begins is empty.

    M is any size, N a multiple of 8, K a multiple of 16. Layouts, devices, the overlap of `out` with what is
    read, compilation and gradients: as for :func:`fp8_gemm_nt`. Scales may have any strides. M-major ones, as
    :func:`cute_gemm.m_major` and :func:`cute_gemm.quantize_k_grouped` make them, are loaded as they are;
    others are copied first. With K = 0 all groups are empty.

    Returns:
        `out`, the very tensor, if given; else a new contiguous tensor.

    Raises:
        TypeError, ValueError: as :func:`fp8_gemm_nt`; TypeError also for an `accumulate` that is no bool, or
            an `out` to add to that is not torch.float32; ValueError also where there is none to add to.
        RuntimeError: as :func:`fp8_gemm_nt`.

    When it raises one of these, `out` is as it was.
    """
    if torch.compiler.is_compiling():
        return _run_traced(lhs, rhs, offsets, out, out_dtype, accumulate)
    given = K_GROUPED, lhs, rhs, out, out_dtype, offsets
    launched = launcher.launch(*given, accumulate=accumulate)
    if launched is not None:
        return launched
    if traced.is_needed(lhs, rhs, out, offsets):
        return _run_traced(lhs, rhs, offsets, out, out_dtype, accumulate)
    return run(lhs, rhs, offsets, out, out_dtype, accumulate)


def run(lhs: Any, rhs: Any, offsets: Any, out: Any, out_dtype: Any, accumulate: Any) -> Tensor:
    """The result, or an error that says what is not in order."""
    call = contract.check(lhs, rhs, offsets, out, out_dtype, accumulate)
    if reference.serves(call):
        return reference.compute(call)
    return launcher.launch_checked(call.launched)


def _describe(lhs: Any, rhs: Any, offsets: Any, out: Any, out_dtype: Any, accumulate: Any) -> Tensor:
    """Of tensors without memory: what the result will be, after the rules that can be judged without it."""
    call = contract.check(lhs, rhs, offsets, out, out_dtype, accumulate, has_memory=False)
    return call.a.new_empty(call.shape, dtype=call.out_dtype) if out is None else out


def _run_traced(
    lhs: Any, rhs: Any, offsets: Any, out: Tensor | None, out_dtype: torch.dtype, accumulate: bool
) -> Tensor:
    """As an op. What cannot be one breaks the graph, and runs without it."""
    others = [] if out is None else [out]
    why = traced.why_no_op(K_GROUPED, lhs, rhs, others, offsets, 0, accumulate, None)
    if not why and (not contract.agree(out, out_dtype) or (accumulate and out is None)):
        why = "kinds"
    if why:
        given = lhs, rhs, offsets, out, out_dtype, accumulate
        if torch.compiler.is_dynamo_compiling():
            # Loads Dynamo.
            from . import untraced

            return untraced.k_grouped[why](*given)
        traced.refuse(why, lhs, rhs, out=out)
        return run(*given)
    named = library.settings_as_arguments(settings.said_in_traced_code())
    if out is None:
        made: Tensor = library.op(returning)(*lhs, *rhs, offsets, out_dtype=out_dtype, **named)
        return made
    library.op(writing)(*lhs, *rhs, out, offsets, accumulate=accumulate, **named)
    return out


def _op(answer: Any, is_writing: bool) -> Any:
    """What an op does: it takes arguments by place, and by name those that stand behind a star."""

    def made(a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, *more: Tensor, **named: Any) -> Tensor | None:
        out, offsets = more if is_writing else (None, *more)
        out_dtype = named.pop("out_dtype", torch.float32)
        accumulate = named.pop("accumulate", False)
        library.require_no_forward_mode()
        with library.scope(**{"num_sms": None, "batch_invariant": None, "pdl": None} | named):
            result = answer((a, sa), (b, sb), offsets, out, out_dtype, accumulate)
        return None if is_writing else result

    return made


for _code in (run.__code__, _op(run, False).__code__):
    torch_internals.keep_from_dynamo(_code, and_what_it_calls=True)

returning, writing = (
    library.register(f"{_NAME}{suffix}", schema, _op(run, is_writing), _op(_describe, is_writing))
    for suffix, is_writing, schema in (
        (
            "",
            False,
            f"({library.OPERANDS}, Tensor offsets, *, ScalarType out_dtype, {library.SETTINGS}) -> Tensor",
        ),
        (
            "_out",
            True,
            f"({library.OPERANDS}, Tensor(a!) out, Tensor offsets, *, bool accumulate=False, "
            f"{library.SETTINGS}) -> ()",
        ),
    )
)
"""The ops of torch's dispatcher: one returns a new tensor, the other writes `out`."""
