"""Which problems are tuned, and which configurations are timed at each."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..measure.errors import CommandError
from ..measure.shapes import Shape, shape_text
from ..measure.work import DRAWN_SHARES, padded_rows
from ..plan import cost_model
from ..plan.card import H100, Card
from ..plan.config import KernelConfig
from ..plan.layouts import Layout
from ..plan.limits import MAX_EXTENT
from ..plan.models import Layer
from ..plan.problem import GemmProblem, why_impossible

# By one draw, 6 masked groups of about 1024 rows were given tiles that took 5 and 6 % longer than others at
# other sizes of the same sum (docs/performance.md, 53).
_DRAWS = 3


@dataclass(frozen=True)
class TuningTask:
    """A problem to tune, and the sizes of its groups at which candidates are timed.

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


def plan_shapes(
    layout: Layout, shapes: Iterable[Shape], out_dtype: str, num_sms: int, card: Card = H100
) -> list[TuningTask]:
    """A task for each of ``shapes``, which are as `TuningTask.shape`; one for what is named twice.

    Raises:
        CommandError: a shape that the operation does not take.
    """
    found = []
    for shape in dict.fromkeys(shapes):
        if len(shape) != (4 if layout.is_grouped else 3):
            wanted = "GxMxNxK, the groups and the rows of each in front," if layout.is_grouped else "MxNxK"
            raise CommandError(f"{shape_text(shape)}: want {wanted} for --op {layout.name}")
        groups, (m, n, k) = shape[0] if layout.is_grouped else 1, shape[-3:]
        found.append(_task(layout, groups, m, n, k, out_dtype, num_sms, card))
    return found


def plan_layers(
    layout: Layout,
    layers: Sequence[Layer],
    ms: Iterable[int],
    out_dtype: str,
    num_sms: int,
    card: Card = H100,
) -> list[TuningTask]:
    """A task for each of ``ms`` and of the layers that ``layout`` is for: experts are grouped.

    Raises:
        CommandError: there is no such layer, or one that the operation does not take.
    """
    names: dict[tuple[int, int, int], str] = {}
    for layer in layers:
        if (layer.groups is not None) == layout.is_grouped:
            key = layer.groups or 1, layer.n, layer.k
            names[key] = ", ".join(filter(None, (names.get(key), layer.name)))
    if not names:
        raise CommandError(f"the model has no experts, which --op {layout.name} is for; want --op dense")
    return [
        _task(layout, groups, m, n, k, out_dtype, num_sms, card, label)
        for (groups, n, k), label in names.items()
        for m in dict.fromkeys(ms)
    ]


def configs_to_time(problem: GemmProblem, within: float) -> list[KernelConfig]:
    """What is predicted to take at most ``within`` times the least, the least first."""
    ranked = cost_model.rank(problem)
    return [choice.config for choice in ranked if choice.cost_us <= within * ranked[0].cost_us]


def _task(
    layout: Layout,
    groups: int,
    m: int,
    n: int,
    k: int,
    out_dtype: str,
    num_sms: int,
    card: Card,
    label: str = "",
) -> TuningTask:
    if why := why_impossible(n, k, groups):
        name = f"{label}: " if label else ""
        raise CommandError(f"{name}{why}")
    if groups * m > MAX_EXTENT:
        raise CommandError(f"{groups} groups of {m} rows are more than {MAX_EXTENT} rows")
    draws = tuple(_draw(groups, m, seed) for seed in range(_draws(layout))) if layout.is_grouped else ((m,),)
    rows = padded_rows(layout, draws[0])
    problem = GemmProblem(rows, n, k, out_dtype, num_sms, layout, groups, card=card)
    return TuningTask(problem, draws, label)


def _draws(layout: Layout) -> int:
    """How often sizes are drawn: once where they decide M, which the host knows, as padding does."""
    return 1 if layout.has_padding else _DRAWS


def _draw(groups: int, m: int, seed: int) -> tuple[int, ...]:
    """Rows of groups, ``m`` on average, spread over what DeepGEMM's benchmark draws, in no order."""
    draw, (least, most) = random.Random(seed), DRAWN_SHARES
    sizes = [round(m * (least + (most - least) * (i + draw.random()) / groups)) for i in range(groups)]
    sizes[groups // 2] += groups * m - sum(sizes)
    draw.shuffle(sizes)
    return tuple(sizes)
