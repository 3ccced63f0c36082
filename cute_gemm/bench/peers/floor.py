"""The floor: kernels of ours that load the operands of a product and store its result, and multiply nothing.

Whatever is faster loads or stores in another way. It is measured over all tiles, stages, clusters, splits and
ways of launching; the fastest counts.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ... import runtime
from ...measure.calls import Call
from ...measure.cases import Case, GroupedCase, Operand, in_layout
from ...measure.records import CHAIN, FLOOR, M_MAJOR
from ...measure.work import problem_of
from ...plan import candidates, launch_policy
from ...plan.config import KernelConfig
from ...plan.problem import GemmProblem
from ...runtime import hardware
from ...runtime.warmup import compile_configs
from . import why_no_cuda


class Floor:
    """All kernels that could compute a case, without their arithmetic."""

    name = "floor"
    regimes = (CHAIN,)

    def __init__(self) -> None:
        self._compiled: set[KernelConfig] = set()

    def available(self) -> str | None:
        return why_no_cuda()

    def versions(self) -> dict[str, str]:
        return {}

    def calls(self, case: Case) -> Sequence[Call]:
        problem = problem_of(case.op, case.shape, hardware.card())
        configs = kernels_of(problem)
        if missing := set(configs) - self._compiled:
            compile_configs(missing, program)
            self._compiled |= missing
        a, sa = case.lhs
        lhs = a, in_layout(sa, M_MAJOR)
        # One result for all: of each layer and kernel it would be more than the device has.
        call = functools.partial(_call, case, lhs, case.poisoned_out(), problem)
        return [call(*each) for each in itertools.product(configs, (False, True))]


def kernels_of(problem: GemmProblem) -> list[KernelConfig]:
    """The configurations that a floor is measured over, with scales of A by TMA where there is room."""
    suitable = [
        candidates.as_run(problem, config, True)
        for config in candidates.all_configs(problem.out_dtype, problem.layout)
        if candidates.is_candidate(problem, config)
    ]
    # Nobody asks for scales, so nothing is fetched ahead.
    return list(dict.fromkeys(replace(config, prefetch_scales=False) for config in suitable))


@functools.cache
def program(config: KernelConfig) -> runtime.Program:
    """The kernel of a configuration, without its arithmetic."""
    from .load_only import LoadOnly

    return runtime.build(config, mainloop=LoadOnly())


def _call(
    case: Case, lhs: Operand, out: Tensor, problem: GemmProblem, config: KernelConfig, pdl: bool
) -> Call:
    flags = launch_policy.launch_flags(problem, config, pdl)

    def run() -> Tensor:
        return runtime.launch(program(config), lhs, case.rhs, *case.arguments, out=out, flags=flags)

    launched = ", dependent launch" if pdl else ""
    return Call(FLOOR, run, functools.partial(_judge, case, run), M_MAJOR, f"{config.name}{launched}")


def _judge(case: Case, run: Callable[[], Tensor], out: Tensor) -> float:
    """No error, if all of a result is stored by one run more: nothing is added up, so it is 0.

    Raises:
        AssertionError: an element is something else.
    """
    out.fill_(torch.nan)
    run()
    stored = out if not isinstance(case, GroupedCase) else out[case.inputs.row_groups >= 0]
    if torch.count_nonzero(stored):
        raise AssertionError("not all of the result was stored")
    return 0.0
