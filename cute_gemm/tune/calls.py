"""Calls of candidates on the same operands, each of which was seen to give the right result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..measure.cases import Case, DenseCase, GroupedCase, in_layout
from ..measure.layers import layers_of
from ..measure.records import M_MAJOR
from ..plan import candidates
from ..plan.config import KernelConfig
from ..plan.problem import GemmProblem
from ..runtime import launcher, selection
from ..runtime.selection import Launch
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


def call_of(launch: Launch, case: Case, sa: Tensor, out: Tensor) -> Callable[[], None]:
    """A call of a kernel, on the stream that is current when it is made, which may be being captured.

    Args:
        launch: of `selection.prepare`.
        case: the operands.
        sa: the scales of A, in the layout that the kernel takes.
        out: where the result goes.
    """
    (a, _), (b, sb), grouping, device = case.lhs, case.rhs, case.grouping, out.get_device()

    def call() -> None:
        # Which semaphore there is depends on the stream.
        launch.kernel(a, sa, b, sb, out, *launch.options(device), *grouping)

    return call


def m_major_scales(case: Case) -> Tensor:
    """The scales of A as TMA can load them: as they are, or a copy."""
    _, sa = case.lhs
    return sa if launcher.tma_can_load(sa) else in_layout(sa, M_MAJOR)


def checked_calls(
    problem: GemmProblem,
    configs: Sequence[KernelConfig],
    case: Case,
    out: Tensor | None = None,
    judge: Callable[[Tensor], object] | None = None,
) -> list[Callable[[], None]]:
    """A call of the kernel of each configuration, each made once and its result checked.

    Kernels are those of :func:`kernel_of`.

    Those that a batch-invariant problem may take sum k-blocks in one order: the first of them is judged, and
    the others must give the same bits. Every other one is judged.

    Args:
        problem: what the operands are of.
        configs: candidates for it.
        case: the operands.
        out: where results go; None for memory of their own.
        judge: raises AssertionError where a result that was NaN before is wrong; None for the case's own.

    Raises:
        AssertionError: a result is wrong; the message names the configuration.
    """
    invariant = replace(problem, batch_invariant=True)
    out = case.poisoned_out() if out is None else out
    judge = judge or case.judge
    sa = m_major_scales(case)
    calls: list[Callable[[], None]] = []
    first: tuple[str, Tensor] | None = None
    for config in configs:
        call = call_of(selection.prepare(problem, kernel_of(problem, config)), case, sa, out)
        out.fill_(torch.nan)
        call()
        is_invariant = candidates.is_candidate(invariant, config)
        if is_invariant and first is not None:
            name, expected = first
            if not torch.equal(_bits(out), _bits(expected)):
                raise AssertionError(f"{config.name} differs from {name}")
        else:
            try:
                judge(out)
            except AssertionError as error:
                raise AssertionError(f"{config.name}: {error}") from error
            if is_invariant:
                first = config.name, out.clone()
        calls.append(call)
    return calls


def chain_of(
    problem: GemmProblem,
    config: KernelConfig,
    layers: Sequence[Case],
    outs: Sequence[Tensor],
    pdl: bool | None,
) -> Callable[[], None]:
    """Calls of one configuration, of all layers one behind the other, by the kernel of :func:`kernel_of`.

    Args:
        problem: what the operands are of.
        config: a candidate for it.
        layers: the operands of each layer.
        outs: where the result of each goes.
        pdl: as of `selection.prepare`.
    """
    launch = selection.prepare(problem, kernel_of(problem, config), pdl)
    calls = [
        call_of(launch, layer, m_major_scales(layer), out) for layer, out in zip(layers, outs, strict=True)
    ]

    def run() -> None:
        for call in calls:
            call()

    return run


def chains_of(
    problem: GemmProblem, configs: Sequence[KernelConfig], case: Case
) -> tuple[list[Callable[[], None]], int]:
    """Of each configuration, calls of all layers one behind the other, launched as a user's are.

    Kernels are those of :func:`kernel_of`; a layer has weights and a result of its own.

    Args:
        problem: what the operands are of.
        configs: candidates for it.
        case: the operands of the first layer.

    Returns:
        A call of all layers for each configuration, and how many layers there are.

    Raises:
        AssertionError: a layer has another result than a call by itself.
    """
    layers = layers_of(case)
    outs = [layer.poisoned_out() for layer in layers]
    # As the settings have it: never by itself where multiprocessors are left to others.
    pdl = None if problem.num_sms == problem.card.sms else False

    def chain(config: KernelConfig) -> Callable[[], None]:
        run = chain_of(problem, config, layers, outs, pdl)
        chain_of(problem, config, layers[:1], outs[:1], pdl=False)()
        wanted = _bits(outs[0]).clone()
        for out in outs:
            out.fill_(torch.nan)
        run()
        for out in outs:
            if not torch.equal(_bits(out), wanted):
                raise AssertionError(f"{config.name} differs in a chain")
        return run

    return [chain(config) for config in configs], len(layers)


def _bits(x: Tensor) -> Tensor:
    return x.view({2: torch.int16, 4: torch.int32}[x.element_size()])
