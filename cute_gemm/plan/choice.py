"""Which kernel runs a problem on its card, and which ones problems of other M would take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from . import candidates, cost_model, tuned
from .config import KernelConfig
from .limits import ceil_div
from .problem import GemmProblem


def choose(problem: GemmProblem, tma_scales: bool = False) -> KernelConfig:
    """What was measured to be best (:mod:`cute_gemm.plan.tuned`), or is predicted to be where nothing was,
    as it runs this problem (:func:`candidates.as_run`).

    Args:
        problem: what is to be computed.
        tma_scales: whether TMA can load the scales of A.
    """
    config = tuned.choice(problem) or cost_model.best(problem)
    return candidates.as_run(problem, config, tma_scales)


@dataclass(frozen=True)
class Chosen:
    """A kernel that is chosen for some M, of which these are the least and the most."""

    config: KernelConfig
    least_m: int
    most_m: int


def reach(problem: GemmProblem, ms: Iterable[int]) -> list[Chosen]:
    """What is chosen for problems that differ from ``problem`` in M alone, with any scales of A.

    Each M is asked for. What was measured holds for single M, and of groups all of a prediction depends on M;
    8192 of them take a fifth of a second.

    Args:
        problem: whatever its M.
        ms: all M, ascending.
    """
    found: dict[KernelConfig, tuple[int, int]] = {}
    for m in ms:
        each = replace(problem, m=m)
        config = tuned.choice(each) or cost_model.best(each)
        for tma_scales in (False, True):
            as_run = candidates.as_run(each, config, tma_scales)
            least, _ = found.get(as_run, (m, m))
            found[as_run] = least, m
    return [Chosen(config, *ends) for config, ends in found.items()]


def rows_of_calls(problem: GemmProblem, most: int) -> range:
    """M of problems of all calls with up to ``most`` rows of A; of a matrix each, if there are such.

    Those have as many rows as are expected, in every group.
    """
    per_row = problem.groups if problem.layout.has_matrix_per_group else 1
    return range(per_row, per_row * most + 1, per_row)


def warmup_command(problem: GemmProblem) -> str:
    """The command that makes what such problems, of as many rows or fewer, may need on this machine."""
    groups = f"{problem.groups}," if problem.layout.is_grouped else ""
    rows = ceil_div(problem.m, problem.groups) if problem.layout.has_matrix_per_group else problem.m
    parts = ["cute-gemm warmup", f"--nk {groups}{problem.n},{problem.k}", f"--max-m {rows}"]
    if problem.layout.is_grouped:
        parts.append(f"--op {problem.layout.name}")
    if problem.out_dtype == "float32":
        parts.append("--out-dtype float32")
    if problem.num_sms != problem.card.sms:
        parts.append(f"--num-sms {problem.num_sms}")
    if problem.batch_invariant:
        parts.append("--batch-invariant")
    return " ".join(parts)
