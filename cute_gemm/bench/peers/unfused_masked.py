"""An expert layer of few tokens by DeepGEMM's masked products: what its users have in a graph of decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...measure import stages
from ...measure.calls import Call
from ...measure.expert_layers import LayerCase, Operand, Routing
from ...measure.records import (
    ACTIVATE,
    CHAIN,
    COMBINE,
    DOWN,
    GATE_UP,
    MASKED,
    QUANTIZE,
    ROUTE,
    UNFUSED_MASKED,
)
from ...plan.limits import ceil_div
from . import around_products, triton_version, why_no_triton
from .deep_gemm import DeepGemm, operation_of
from .unfused import call_of

_TILE = 128
"""Rows of its largest tile of masked products: a matrix has whole ones, as a tile is stored whole."""


class UnfusedMasked:
    """A matrix for each expert, with room for all tokens, and Triton around the products.

    Nothing waits for the host. With many tokens the room is mostly empty, so it is timed with few alone.
    """

    name = "unfused_masked"
    regimes = (CHAIN,)

    def available(self) -> str | None:
        return DeepGemm().available() or why_no_triton()

    def versions(self) -> dict[str, str]:
        return DeepGemm().versions() | triton_version()

    def calls(self, case: LayerCase) -> Sequence[Call]:
        return [call_of(case, UNFUSED_MASKED, _steps(case))]


class Matrices(NamedTuple):
    """Rows of experts on their way through the layer.

    Args:
        slots: int32 ``[T, k]``: the row of each choice in all matrices, -1 where it has none.
        counts: int32 ``[E]``: rows of each expert.
        rows: ``[E, room, ...]``, a tensor in bf16, or an operand.
    """

    slots: Tensor
    counts: Tensor
    rows: Any


def _steps(case: LayerCase) -> stages.Steps:
    from . import triton_masked

    operation, sizes = operation_of(MASKED), case.sizes
    # A token has an expert once at most.
    room = ceil_div(sizes.tokens, _TILE) * _TILE
    expected = ceil_div(sizes.tokens * sizes.choices, sizes.all_experts)

    def laid_out(found: Routing) -> Matrices:
        made = triton_masked.lay_out(case.x, case.expert_ids, found.places, found.ends, room)
        lhs, counts, slots = made
        return Matrices(slots, counts, lhs)

    def product(made: Matrices, rhs: Operand, n: int) -> Matrices:
        out = torch.empty(sizes.experts, room, n, dtype=torch.bfloat16, device=case.x.device)
        operation(made.rows, rhs, out, made.counts, expected)
        return made._replace(rows=out)

    def activated(made: Matrices) -> Matrices:
        return made._replace(rows=triton_masked.activate(made.rows, made.counts, expected))

    def combined(made: Matrices) -> Tensor:
        return around_products.add_up(made.rows.flatten(0, 1), made.slots, case.weights)

    return {
        ROUTE: lambda _: case.route(),
        QUANTIZE: laid_out,
        GATE_UP: lambda made: product(made, case.gate_up, 2 * sizes.inner),
        ACTIVATE: activated,
        DOWN: lambda made: product(made, case.down, sizes.k),
        COMBINE: combined,
    }
