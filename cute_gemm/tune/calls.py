"""Calls of candidates on the same operands, each of which was seen to give the right result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..measure.cases import Case, DenseCase, GroupedCase, in_layout
from ..measure.records import M_MAJOR
from ..plan import candidates
from ..plan.config import KernelConfig
from ..plan.problem import GemmProblem
from ..runtime import selection
from .tasks import TuningTask


def case_of(task: TuningTask, sizes: Sequence[int], device: str = "cuda") -> Case:
    """Standard normal operands of a task, quantised; ``sizes`` is one of its draws."""
    layout, out_dtype = task.problem.layout, getattr(torch, task.problem.out_dtype)
    if not layout.is_grouped:
        return DenseCase.make(task.shape, device, out_dtype)
    return GroupedCase.of_rows(f"m_grouped_{layout.name}", task.shape, sizes, device, out_dtype)


def kernel_of(problem: GemmProblem, config: KernelConfig) -> KernelConfig:
    """The kernel that is timed where ``config`` is a candidate: that of scales of A which TMA can load."""
    return candidates.as_run(problem, config, tma_scales=True)


def checked_calls(
    problem: GemmProblem, configs: Sequence[KernelConfig], case: Case
) -> list[Callable[[], object]]:
    """A call of the kernel of each configuration, each made once and its result checked.

    Kernels are those of :func:`kernel_of`.

    Those that a batch-invariant problem may take sum k-blocks in one order: the first of them is judged, and
    the others must give the same bits. Every other one is judged.

    Raises:
        AssertionError: a result is wrong; the message names the configuration.
    """
    invariant = replace(problem, batch_invariant=True)
    out = case.poisoned_out()
    (a, sa), (b, sb) = case.lhs, case.rhs
    sa = in_layout(sa, M_MAJOR)
    calls: list[Callable[[], object]] = []
    first: tuple[str, Tensor] | None = None
    for config in configs:
        launch = selection.prepare(problem, kernel_of(problem, config))
        call = functools.partial(
            launch.kernel,
            a,
            sa,
            b,
            sb,
            out,
            *launch.options(out.get_device()),
            *case.grouping,
        )
        out.fill_(torch.nan)
        call()
        is_invariant = candidates.is_candidate(invariant, config)
        if is_invariant and first is not None:
            name, expected = first
            if not torch.equal(_bits(out), _bits(expected)):
                raise AssertionError(f"{config.name} differs from {name}")
        else:
            try:
                case.judge(out)
            except AssertionError as error:
                raise AssertionError(f"{config.name}: {error}") from error
            if is_invariant:
                first = config.name, out.clone()
        calls.append(call)
    return calls


def _bits(x: Tensor) -> Tensor:
    return x.view({2: torch.int16, 4: torch.int32}[x.element_size()])
