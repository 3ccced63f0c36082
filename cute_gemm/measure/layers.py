"""Layers one behind the other: the same product many times, each time with weights of its own.

That is what a decoding server runs, in a CUDA graph. Together the weights are more than L2 holds, so each
layer reads its own from DRAM; A, which the layer before has just written, stays in L2.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ..plan.limits import ceil_div
from .calls import Call
from .cases import Case, DenseCase, Operand

WEIGHTS_BYTES = 256 << 20
"""Of all layers together, at least: more than four times what L2 holds."""

LEAST_LAYERS, MOST_LAYERS = 4, 256

QUANTIZER_CALLS = 200
"""Of a quantiser in a chain. What it reads stays in L2, as the kernel before has just written it; there are
so many that what two replays have between them does not count."""

LAYER_CALLS = 40
"""Of an expert layer in a chain, at least: so many that what two replays have between them does not count."""

_MOST_WEIGHTS_BYTES = 16 << 30
"""Of all expert layers of a chain together, at most, beyond two layers; in bf16 they are twice as many."""

C = TypeVar("C", bound=Case)


def layers_of(case: C) -> list[C]:
    """A case, and as many more with copies of its weights as a chain has."""
    b, _ = case.rhs
    return [case] + [_with_weights_of_its_own(case) for _ in range(layer_count(b.nbytes, WEIGHTS_BYTES) - 1)]


def layer_count(bytes_of_b: int, weights_bytes: int) -> int:
    """Layers that a chain has whose weights are to be so many bytes together, at least."""
    return min(max(ceil_div(weights_bytes, bytes_of_b), LEAST_LAYERS), MOST_LAYERS)


def expert_layer_count(bytes_in_use: int, bytes_of_all: int) -> int:
    """Expert layers that a chain has: as many as there is room for, of those that :func:`layer_count` wants.

    Args:
        bytes_in_use: weights of one layer that its tokens have chosen.
        bytes_of_all: all weights of one layer.
    """
    return min(layer_count(bytes_in_use, WEIGHTS_BYTES), max(2, _MOST_WEIGHTS_BYTES // bytes_of_all))


def _with_weights_of_its_own(case: C) -> C:
    b, sb = case.rhs
    rhs: Operand = b.clone(), sb.clone()
    if isinstance(case, DenseCase):
        return replace(case, rhs=rhs)
    return replace(case, inputs=replace(case.inputs, rhs=rhs))


@dataclass
class Chain:
    """Calls one behind the other, of one peer in one way: calling it calls all.

    Args:
        calls: at least one; what they have in common is that of the first.
        repeats: how often all of them are called.
    """

    calls: Sequence[Call]
    repeats: int = 1

    @property
    def first(self) -> Call:
        return self.calls[0]

    @property
    def count(self) -> int:
        """How many calls it makes."""
        return self.repeats * len(self.calls)

    def __call__(self) -> None:
        for _ in range(self.repeats):
            for call in self.calls:
                call()

    def stages(self) -> dict[str, Callable[[], None]]:
        """Each stage by itself, of all calls one behind the other, as often as they are."""
        return {name: functools.partial(self._run_stage, name) for name in self.first.stages}

    def _run_stage(self, name: str) -> None:
        for _ in range(self.repeats):
            for call in self.calls:
                call.stages[name]()

    def error(self) -> float:
        """The largest error of a worst tile of all results.

        Raises:
            AssertionError: one is wrong, or there is none.
        """
        return max(call.error() for call in self.calls)
