"""What a survey times of each problem, how long that should take, and which problems go together."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from drawn_shapes import Draw
from operand_pool import layers_of

from cute_gemm.plan import candidates, cost_model
from cute_gemm.plan.card import Card
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.runtime import selection
from cute_gemm.tune.calls import kernel_of
from cute_gemm.tune.tasks import configs_to_time

ROUNDS, WARM_UP, CHAIN_ROUNDS = 5, 1, 3
CHAIN_US = 300.0
"""How long a graph is replayed in a round, at least."""

_MOST_NEAR, _MOST_FAR = 24, 2
_FARTHEST = 4.0  # times what the best is predicted to take: slower ones would only cost time
_MOST_CALLS, _MOST_US = 200, 8e6  # of a batch
_FLUSH_US, _GRAPH_US, _NODE_US = 90.0, 500.0, 20.0


@dataclass(frozen=True)
class Plan:
    """What is timed of a problem.

    Args:
        draw, problem: what is computed.
        configs: candidates, those predicted to be fast first.
        chosen: the one of them that a call launches.
    """

    draw: Draw
    problem: GemmProblem
    configs: tuple[KernelConfig, ...]
    chosen: KernelConfig

    @property
    def kernels(self) -> list[KernelConfig]:
        """What is compiled."""
        return [kernel_of(self.problem, config) for config in self.configs]

    @property
    def us(self) -> float:
        """How long it takes on the device, roughly."""
        layers = layers_of(self.draw)
        total = 0.0
        for config in self.configs:
            cost = cost_model.predict(self.problem, config).cost_us
            cold = (1 + WARM_UP + ROUNDS) * (cost + _FLUSH_US)
            capture = _GRAPH_US + layers * _NODE_US
            one_way = capture + 2 * layers * cost + CHAIN_ROUNDS * max(CHAIN_US, layers * cost)
            total += cold + 2 * one_way
        return total


def plan_of(draw: Draw, card: Card, within: float, seed: int) -> Plan:
    """The candidates near the best, at most 24; two others, drawn; and the one that a call launches.

    Args:
        draw: the problem.
        card: the device.
        within: as for `configs_to_time`.
        seed: of the draw of candidates.
    """
    problem = draw.problem(card)
    near = configs_to_time(problem, within)[:_MOST_NEAR]
    far = [config for config in configs_to_time(problem, _FARTHEST) if config not in near]
    drawn = random.Random(f"{seed}, {draw}").sample(far, min(_MOST_FAR, len(far)))
    launched = selection.select(problem, tma_scales=True)
    every = candidates.all_configs(problem.out_dtype, problem.layout, problem.recipe)
    chosen = next(config for config in every if kernel_of(problem, config) == launched)
    return Plan(draw, problem, tuple(dict.fromkeys([*near, *drawn, chosen])), chosen)


def batches(plans: Iterable[Plan]) -> Iterator[list[Plan]]:
    """Plans in order, those together whose calls one profile holds, and that do not take long."""
    batch: list[Plan] = []
    calls, us = 0, 0.0
    for plan in plans:
        calls, us = calls + len(plan.configs), us + plan.us
        if batch and (calls > _MOST_CALLS or us > _MOST_US):
            yield batch
            batch, calls, us = [], len(plan.configs), plan.us
        batch.append(plan)
    if batch:
        yield batch
