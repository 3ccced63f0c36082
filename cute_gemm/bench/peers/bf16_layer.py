"""An expert layer in bf16: torch's grouped products, compiled torch around them, and a sum in Triton."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...measure import stages
from ...measure.calls import Call
from ...measure.expert_layers import BF16_LIMIT, LayerCase, Routing
from ...measure.records import ACTIVATE, BF16, CHAIN, COLD, COMBINE, DOWN, GATE_UP, QUANTIZE, ROUTE
from . import around_products, triton_version, why_no_cuda, why_no_triton


class Bf16Layer:
    """The layer of the dequantised weights. How many rows there are, the host was told before."""

    name = "bf16"
    regimes = COLD, CHAIN

    def available(self) -> str | None:
        if _grouped_product() is None:
            return "this torch has no grouped product"
        return why_no_cuda() or why_no_triton()

    def versions(self) -> dict[str, str]:
        return triton_version()

    def calls(self, case: LayerCase) -> Sequence[Call]:
        steps = _steps(case)
        return [
            Call(
                BF16,
                case.launched(lambda: stages.run(steps)),
                case.judge_within(BF16_LIMIT),
                stages={name: case.launched(stage) for name, stage in stages.each_alone(steps).items()},
            )
        ]


def _grouped_product() -> Callable[..., Any] | None:
    """Torch's, by its public name, or that which it had before; None if there is neither."""
    public: Callable[..., Any] | None = getattr(torch.nn.functional, "grouped_mm", None)
    return public or getattr(torch, "_grouped_mm", None)


def _steps(case: LayerCase) -> stages.Steps:
    product, around = _grouped_product(), around_products.compiled(case.shape)
    assert product is not None
    gate_up, down = case.weights_in_bf16()
    rows = case.sizes.rows

    def gathered(found: Routing) -> tuple[Routing, Tensor]:
        return found, around.gather(case.x, found.tokens[:rows])

    def multiplied_by(weights: Tensor) -> Callable[[tuple[Routing, Tensor]], tuple[Routing, Tensor]]:
        return lambda made: (made[0], product(made[1], weights, offs=made[0].ends))

    def activated(made: tuple[Routing, Tensor]) -> tuple[Routing, Tensor]:
        found, x = made
        return found, around.swiglu(x)

    def combined(made: tuple[Routing, Tensor]) -> Tensor:
        found, each = made
        return around_products.add_up(each, found.places, case.weights)

    return {
        ROUTE: lambda _: case.route(),
        QUANTIZE: gathered,
        GATE_UP: multiplied_by(gate_up.mT),
        ACTIVATE: activated,
        DOWN: multiplied_by(down.mT),
        COMBINE: combined,
    }
