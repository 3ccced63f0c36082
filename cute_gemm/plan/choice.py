"""Which kernel runs a problem on its card, and which ones problems of other M would take."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from . import candidates, cost_model, tuned
from .config import KernelConfig
from .limits import ceil_div
from .problem import GemmProblem

GRADIENTS = "gradients"
"""What commands call products whose B has scales of each row."""


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


def reach(problem: GemmProblem, ms: range) -> list[Chosen]:
    """What is chosen for problems that differ from ``problem`` in M alone, with any scales of A.

    Not every M is asked for. Between those at which something was measured, or a configuration begins or
    ceases to be a candidate, choices change where tiles get another row, or where memory takes so much longer
    that another kernel is faster: there, stretches of M are halved until both ends are alike.

    Args:
        problem: whatever its M.
        ms: all M, ascending.
    """
    found: dict[KernelConfig, tuple[int, int]] = {}
    asked = _Asked(problem)
    cuts = sorted({ms.start, ms[-1] + 1, *(m for m in asked.cuts() if ms.start < m <= ms[-1])})
    # Numbers of M in `ms`: of the first one of each stretch.
    firsts = sorted({-(-(cut - ms.start) // ms.step) for cut in cuts})
    for first, end in itertools.pairwise(firsts):
        for m in asked.that_differ(ms[first:end]):
            for config in asked.choices(m):
                least, most = found.get(config, (m, m))
                found[config] = min(least, m), max(most, m)
    return [Chosen(config, *ends) for config, ends in found.items()]


class _Asked:
    """Choices for problems of each M that was asked for."""

    def __init__(self, problem: GemmProblem) -> None:
        self._problem = problem
        what = problem.out_dtype, problem.layout, problem.recipe, problem.narrowing, problem.accumulate
        self._rows = [
            (config.block_m, rows)
            for config in candidates.all_configs(*what)
            if (rows := candidates.candidate_rows(problem, config))
        ]
        # Rows that tiles of a height are candidates for, or for more.
        self._most = {
            height: max(rows[-1] for h, rows in self._rows if h == height) for height, _ in self._rows
        }
        self._choices: dict[int, tuple[KernelConfig, ...]] = {}

    def cuts(self) -> Iterator[int]:
        """Where something may begin."""
        for m in tuned.rows_measured(self._problem):
            yield from (m, m + 1)
        for _, rows in self._rows:
            yield from (rows.start, rows.stop)

    def choices(self, m: int) -> tuple[KernelConfig, ...]:
        """With scales of A that threads load, and that TMA does."""
        if m not in self._choices:
            each = replace(self._problem, m=m)
            config = tuned.choice(each) or cost_model.best(each)
            self._choices[m] = tuple(candidates.as_run(each, config, tma) for tma in (False, True))
        return self._choices[m]

    def that_differ(self, ms: range) -> Iterator[int]:
        """M of a stretch, so close that those between are alike."""
        pending = [ms]
        while pending:
            ms = pending.pop()
            yield from (ms[0], ms[-1])
            if len(ms) > 2 and self._signature(ms[0]) != self._signature(ms[-1]):
                middle = len(ms) // 2
                pending += [ms[:middle], ms[middle:]]

    def _signature(self, m: int) -> tuple[object, ...]:
        layout, groups = self._problem.layout, self._problem.groups
        alike = cost_model.rows_alike(layout, m)
        heights = [height for height, most in self._most.items() if m <= most]
        blocks = tuple(layout.row_blocks(alike, groups, height) for height in heights)
        return blocks, self.choices(m)


def rows_of_calls(problem: GemmProblem, most: int) -> range:
    """M of problems of all calls with up to ``most`` rows of A; of a matrix each, if there are such.

    Those have as many rows as are expected, in every group.
    """
    per_row = problem.groups if problem.layout.has_matrix_per_group else 1
    return range(per_row, per_row * most + 1, per_row)


def warmup_command(problem: GemmProblem) -> str:
    """The command that makes what such problems, of as many rows or fewer, may need on this machine.

    Of gradients, those of as many tokens or fewer.
    """
    if problem.recipe.scales_columns:
        groups = f"{problem.groups}," if problem.layout.has_result_per_group else ""
        parts = [f"cute-gemm warmup --nk {groups}{problem.m},{problem.n}", f"--max-m {problem.k}"]
        return " ".join([*parts, f"--op {GRADIENTS}", *_options(problem)])
    groups = f"{problem.groups}," if problem.layout.is_grouped else ""
    rows = ceil_div(problem.m, problem.groups) if problem.layout.has_matrix_per_group else problem.m
    parts = ["cute-gemm warmup", f"--nk {groups}{problem.n},{problem.k}", f"--max-m {rows}"]
    if problem.layout.is_grouped:
        parts.append(f"--op {problem.layout.name}")
    return " ".join([*parts, *_options(problem)])


def _options(problem: GemmProblem) -> list[str]:
    """Those that every operation has."""
    parts = []
    if problem.out_dtype == "float32":
        parts.append("--out-dtype float32")
    if problem.num_sms != problem.card.sms:
        parts.append(f"--num-sms {problem.num_sms}")
    if problem.batch_invariant:
        parts.append("--batch-invariant")
    return parts
