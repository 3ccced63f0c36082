"""Which problems are tuned, and which configurations are timed at each."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..bench.records import Shape, shape_text
from ..plan import cost_model
from ..plan.config import KernelConfig
from ..plan.layouts import LAYOUTS
from ..plan.limits import CONTIGUOUS_ALIGNMENT, MAX_GROUPS, ceil_div
from ..plan.problem import GemmProblem
from . import TuneError
from .models import Layer

# By one draw, 6 masked groups of about 1024 rows were given tiles that took 5 and 6 % longer than others at
# other sizes of the same sum (2026-11-25).
_DRAWS = 3


@dataclass(frozen=True)
class Job:
    """A problem to tune.

    Args:
        problem: what kernels are chosen for.
        draws: the rows of each group, of which a dense problem has one; where the choice must hold for any
            sizes of the same sum, several such.
        label: what it is in a model; empty where only its shape is known.
    """

    problem: GemmProblem
    draws: tuple[tuple[int, ...], ...]
    label: str = ""

    @property
    def shape(self) -> Shape:
        """``(m, n, k)``, or ``(groups, m, n, k)`` with ``m`` rows of each group on average."""
        groups = (self.problem.groups,) if self.problem.layout.is_grouped else ()
        rows = self.draws[0]
        return *groups, sum(rows) // len(rows), self.problem.n, self.problem.k

    @property
    def title(self) -> str:
        title = f"{self.problem.layout.name} {shape_text(self.shape)}"
        return f"{title} ({self.label})" if self.label else title


def plan_shapes(op: str, shapes: Iterable[Shape], out_dtype: str, num_sms: int) -> list[Job]:
    """A job for each of ``shapes``, which are as `Job.shape` of the layout ``op``.

    Raises:
        TuneError: a shape that the operation does not take.
    """
    jobs = []
    for shape in shapes:
        if len(shape) != (3 if op == "dense" else 4):
            wanted = "MxNxK" if op == "dense" else "GxMxNxK, the groups and the rows of each in front,"
            raise TuneError(f"{shape_text(shape)}: want {wanted} for --op {op}")
        m, n, k = shape[-3:]
        groups = 1 if op == "dense" else shape[0]
        jobs.append(_job(op, groups, m, n, k, out_dtype, num_sms))
    return jobs


def plan_layers(
    op: str, layers: Sequence[Layer], ms: Iterable[int], out_dtype: str, num_sms: int
) -> list[Job]:
    """A job for each of ``ms`` and of the layers that ``op`` is for: experts are grouped, all others dense.

    Raises:
        TuneError: there is no such layer, or one that the operation does not take.
    """
    names: dict[tuple[int, int, int], str] = {}
    for layer in layers:
        if (layer.groups is None) == (op == "dense"):
            key = layer.groups or 1, layer.n, layer.k
            names[key] = ", ".join(filter(None, (names.get(key), layer.name)))
    if not names:
        raise TuneError(f"the model has no experts, which --op {op} is for; want --op dense")
    return [
        _job(op, groups, m, n, k, out_dtype, num_sms, label)
        for (groups, n, k), label in names.items()
        for m in ms
    ]


def candidates(problem: GemmProblem, within: float) -> list[KernelConfig]:
    """What is predicted to take at most ``within`` times the least, the least first."""
    ranked = cost_model.rank(problem)
    return [choice.config for choice in ranked if choice.cost_us <= within * ranked[0].cost_us]


def _job(op: str, groups: int, m: int, n: int, k: int, out_dtype: str, num_sms: int, label: str = "") -> Job:
    if n % 8 or k % 16 or groups > MAX_GROUPS:
        name = f"{label}: " if label else ""
        raise TuneError(
            f"{name}N = {n}, K = {k}, {groups} groups; want N a multiple of 8, K one of 16, and at most "
            f"{MAX_GROUPS} groups"
        )
    if op == "dense":
        draws: tuple[tuple[int, ...], ...] = ((m,),)
    else:
        # Of contiguous groups the host knows M, which the sizes decide.
        draws = tuple(_draw(groups, m, seed) for seed in range(1 if op == "contiguous" else _DRAWS))
    alignment = CONTIGUOUS_ALIGNMENT if op == "contiguous" else 1
    rows = sum(ceil_div(size, alignment) * alignment for size in draws[0])
    return Job(GemmProblem(rows, n, k, out_dtype, num_sms, LAYOUTS[op], groups), draws, label)


def _draw(groups: int, m: int, seed: int) -> tuple[int, ...]:
    """Rows of groups, ``m`` on average, spread from 0.7 to 1.3 times that, in no order."""
    draw = random.Random(seed)
    sizes = [round(m * (0.7 + 0.6 * (i + draw.random()) / groups)) for i in range(groups)]
    sizes[groups // 2] += groups * m - sum(sizes)
    draw.shuffle(sizes)
    return tuple(sizes)
