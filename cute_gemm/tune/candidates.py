"""Calls of candidates on the same operands, each of which was seen to give the right result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import dispatch, heuristics, testing
from ..problem import CONTIGUOUS_ALIGNMENT, GemmProblem, KernelConfig, ceil_div
from .plan import Job

Operand = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Operands:
    """What a kernel takes, where it writes, and what that must be.

    Args:
        lhs, rhs: as an operation takes them.
        grouping: what a kernel is given to tell groups apart.
        out: the result.
        judge: raises AssertionError if a result that was NaN before is wrong.
    """

    lhs: Operand
    rhs: Operand
    grouping: tuple[Tensor | int, ...]
    out: Tensor
    judge: Callable[[Tensor], object]

    @staticmethod
    def make(job: Job, device: str = "cuda") -> Operands:
        """Standard normal numbers, quantised; also in rows of no group, as NaN costs less power."""
        problem = job.problem
        out_dtype = getattr(torch, problem.out_dtype)
        if problem.layout == "dense":
            (a, sa), (b, sb) = testing.make_inputs(problem.m, problem.n, problem.k, device=device)
            out = torch.empty(problem.m, problem.n, dtype=out_dtype, device=device)
            return Operands((a, sa), (b, sb), (), out, lambda out: testing.assert_correct(out, a, sa, b, sb))
        inputs = _grouped_inputs(job, device)
        (a, sa), empty = inputs.lhs, inputs.row_groups < 0
        given = a.view(torch.uint8)[~empty]
        a.view(torch.uint8)[empty] = given[torch.arange(int(empty.sum()), device=device) % len(given)]
        sa[empty] = 1.0
        grouping = (inputs.index, 1) if problem.layout == "offsets" else (inputs.index,)
        out = torch.empty(*a.shape[:-1], problem.n, dtype=out_dtype, device=device)

        def judge(out: Tensor) -> None:
            testing.assert_grouped_correct(out, inputs.lhs, inputs.rhs, inputs.row_groups)
            if not out[inputs.row_groups < 0].isnan().all():
                raise AssertionError("a row of no group was written")

        return Operands(inputs.lhs, inputs.rhs, grouping, out, judge)


def checked_calls(
    problem: GemmProblem, configs: Sequence[KernelConfig], operands: Operands
) -> list[Callable[[], object]]:
    """A call of the kernel of each configuration, each made once and its result checked.

    Those that a batch-invariant problem may take sum k-blocks in one order: the first of them is judged, and
    the others must give the same bits. Every other one is judged.

    Raises:
        AssertionError: a result is wrong; the message names the configuration.
    """
    invariant = replace(problem, batch_invariant=True)
    out = operands.out
    calls: list[Callable[[], object]] = []
    first: tuple[str, Tensor] | None = None
    for config in configs:
        call = functools.partial(
            dispatch.instance(config), *operands.lhs, *operands.rhs, out, problem.num_sms, *operands.grouping
        )
        out.fill_(torch.nan)
        call()
        is_invariant = heuristics.is_suitable(invariant, config)
        if is_invariant and first is not None:
            name, expected = first
            if not torch.equal(_bits(out), _bits(expected)):
                raise AssertionError(f"{config.name} differs from {name}")
        else:
            try:
                operands.judge(out)
            except AssertionError as error:
                raise AssertionError(f"{config.name}: {error}") from error
            if is_invariant:
                first = config.name, out.clone()
        calls.append(call)
    return calls


def _grouped_inputs(job: Job, device: str) -> testing.GroupedInputs:
    n, k, layout = job.problem.n, job.problem.k, job.problem.layout
    if layout == "contiguous":
        return testing.make_contiguous_inputs(job.sizes, n, k, device=device)
    if layout == "offsets":
        return testing.make_offsets_inputs(job.sizes, n, k, device=device)
    capacity = ceil_div(max(job.sizes), CONTIGUOUS_ALIGNMENT) * CONTIGUOUS_ALIGNMENT
    return testing.make_masked_inputs(job.sizes, capacity, n, k, device=device)


def _bits(x: Tensor) -> Tensor:
    return x.view({2: torch.int16, 4: torch.int32}[x.element_size()])
