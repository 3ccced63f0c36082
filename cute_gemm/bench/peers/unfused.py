"""An expert layer whose products do nothing else: what users of FP8 products without epilogues run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...measure import stages
from ...measure.calls import Call
from ...measure.expert_layers import FP8_LIMIT, LayerCase, Operand, Routing
from ...measure.records import (
    ACTIVATE,
    CHAIN,
    COLD,
    COMBINE,
    CONTIGUOUS,
    DOWN,
    GATE_UP,
    QUANTIZE,
    ROUTE,
    UNFUSED,
    UNFUSED_DEEPGEMM,
)
from ...plan.limits import CONTIGUOUS_ALIGNMENT
from . import around_products, triton_version, why_no_cuda, why_no_triton
from .deep_gemm import DeepGemm, operation_of


class Unfused:
    """Our own kernels, less epilogues: product, SwiGLU and quantising, product; a weighted sum in Triton."""

    name = "unfused"
    regimes = COLD, CHAIN

    def available(self) -> str | None:
        return why_no_cuda() or why_no_triton()

    def versions(self) -> dict[str, str]:
        return triton_version()

    def calls(self, case: LayerCase) -> Sequence[Call]:
        """With scales of either layout, the faster of which counts."""
        return [
            call_of(case, UNFUSED, _steps(case, is_m_major), name)
            for is_m_major, name in ((False, "row-major scales"), (True, "M-major scales"))
        ]


def call_of(case: LayerCase, peer: str, steps: stages.Steps, config: str | None = None) -> Call:
    """A layer in FP8 of these steps, and each by itself."""
    return Call(
        peer,
        case.launched(lambda: stages.run(steps)),
        case.judge_within(FP8_LIMIT),
        config=config,
        stages={name: case.launched(stage) for name, stage in stages.each_alone(steps).items()},
    )


def _steps(case: LayerCase, is_m_major: bool) -> stages.Steps:
    def gate_up(made: tuple[Routing, Operand]) -> tuple[Routing, Tensor]:
        found, lhs = made
        return found, case.multiply(lhs, case.gate_up, found)

    def activated(made: tuple[Routing, Tensor]) -> tuple[Routing, Operand]:
        found, x = made
        return found, case.activate(x, is_m_major, found.ends)

    def down(made: tuple[Routing, Operand]) -> tuple[Routing, Tensor]:
        found, lhs = made
        return found, case.multiply(lhs, case.down, found)

    def combined(made: tuple[Routing, Tensor]) -> Tensor:
        found, rows = made
        return around_products.add_up(rows, found.places, case.weights)

    return {
        ROUTE: lambda _: case.route(),
        QUANTIZE: lambda found: (found, case.quantize(found.tokens, is_m_major)),
        GATE_UP: gate_up,
        ACTIVATE: activated,
        DOWN: down,
        COMBINE: combined,
    }


class UnfusedDeepGemm:
    """The same with DeepGEMM's contiguous products, of as many rows as there are, padded.

    Where padded rows begin, the host was told before: that is not in the time. With few rows its users have a
    matrix for each expert instead, so it is timed with many alone.
    """

    name = "unfused_deep_gemm"
    regimes = (COLD,)

    def available(self) -> str | None:
        return DeepGemm().available() or why_no_triton()

    def versions(self) -> dict[str, str]:
        return DeepGemm().versions() | triton_version()

    def calls(self, case: LayerCase) -> Sequence[Call]:
        return [call_of(case, UNFUSED_DEEPGEMM, _padded_steps(case))]


class Padded(NamedTuple):
    """Where rows are, of experts that begin at multiples of 128 rows.

    Args:
        tokens: int32 ``[M]``: the token of each row, -1 for padding.
        places: int32 ``[T, k]``: the row of each choice, -1 where it has none.
        experts: int32 ``[M]``: the expert of each row, that of padding included.
    """

    tokens: Tensor
    places: Tensor
    experts: Tensor


def padded(found: Routing) -> Padded:
    """The same routing with padding; the host waits for the device."""
    ends = found.ends.long()
    counts = ends.diff(prepend=ends.new_zeros(1))
    room = -(-counts // CONTIGUOUS_ALIGNMENT) * CONTIGUOUS_ALIGNMENT
    experts = torch.arange(len(ends), device=ends.device)
    # How far an expert's rows move.
    shift = (room.cumsum(0) - room) - (ends - counts)
    rows = torch.arange(int(ends[-1]), device=ends.device)
    moved = rows + shift.repeat_interleave(counts)
    tokens = torch.full((int(room.sum()),), -1, dtype=torch.int32, device=ends.device)
    tokens[moved] = found.tokens[: len(rows)]
    places = torch.where(found.places < 0, -1, moved[found.places.clamp(min=0)]).to(torch.int32)
    return Padded(tokens, places, experts.repeat_interleave(room).to(torch.int32))


def _padded_steps(case: LayerCase) -> stages.Steps:
    operation, at = operation_of(CONTIGUOUS), padded(case.route())
    k, inner = case.sizes.k, case.sizes.inner

    def product(lhs: Operand, rhs: Operand, n: int) -> Tensor:
        out = torch.empty(len(at.experts), n, dtype=torch.bfloat16, device=case.x.device)
        operation(lhs, rhs, out, at.experts)
        return out

    return {
        ROUTE: lambda _: case.route(),
        QUANTIZE: lambda _: case.quantize(at.tokens, True),
        GATE_UP: lambda lhs: product(lhs, case.gate_up, 2 * inner),
        ACTIVATE: lambda x: case.activate(x, True),
        DOWN: lambda lhs: product(lhs, case.down, k),
        COMBINE: lambda rows: around_products.add_up(rows, at.places, case.weights),
    }
