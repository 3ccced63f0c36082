"""A training step of a gated MLP, forward and backward: FP8 layers beside `torch.compile`d bf16 ones.

    python benchmarks/training_step.py --out FILE

Each step begins with parameters without gradients and, as parameters change between steps, without FP8 values
of the weights. Steps of all ways take turns; a sample is of several steps one after the other.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from cute_gemm.measure import origin
from cute_gemm.measure.clocks import elapsed_us
from cute_gemm.measure.records import write_rows
from cute_gemm.nn import FP8Linear, swap_linear

TOKENS = 4096
SIZES = ((7168, 18432), (7168, 2048))
"""Hidden and intermediate: DeepSeek-V3's dense layers, and one of its experts."""

SAMPLES = 7
STEPS = 8


class GatedMlp(nn.Module):
    """``down(silu(gate(x)) * up(x))``, in bf16."""

    def __init__(self, hidden: int, intermediate: int):
        super().__init__()
        options = {"bias": False, "dtype": torch.bfloat16, "device": "cuda"}
        self.gate = nn.Linear(hidden, intermediate, **options)
        self.up = nn.Linear(hidden, intermediate, **options)
        self.down = nn.Linear(intermediate, hidden, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of tokens (..., hidden)."""
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def step_of(
    layer: nn.Module, call: Callable[[torch.Tensor], torch.Tensor], hidden: int
) -> Callable[[], None]:
    """One step of ``layer``, which ``call`` runs, with the gradient of its input, as inside a model."""
    x = torch.randn(TOKENS, hidden, device="cuda", dtype=torch.bfloat16).requires_grad_()
    dy = torch.randn(TOKENS, hidden, device="cuda", dtype=torch.bfloat16)
    quantized = [each for each in layer.modules() if isinstance(each, FP8Linear)]

    def step() -> None:
        x.grad = None
        layer.zero_grad(set_to_none=True)
        for each in quantized:
            each.forget()
        call(x).backward(dy)

    return step


def measure(hidden: int, intermediate: int) -> dict[str, float]:
    """Milliseconds of a step by each way: medians of samples in turns."""
    bf16 = GatedMlp(hidden, intermediate)
    fp8 = GatedMlp(hidden, intermediate)
    fp8.load_state_dict(bf16.state_dict())
    swapped = swap_linear(fp8)
    assert len(swapped.swapped) == 3, swapped
    ways = {
        "bf16 compiled": step_of(bf16, torch.compile(bf16), hidden),
        "fp8": step_of(fp8, fp8, hidden),
        "fp8 compiled": step_of(fp8, torch.compile(fp8), hidden),
    }
    for step in ways.values():
        for _ in range(3):
            step()
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(SAMPLES):
        for name, step in ways.items():
            samples[name].append(elapsed_us(step, STEPS))
    return {name: round(statistics.median(each) / 1e3, 3) for name, each in samples.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a file of JSON lines")
    options = parser.parse_args()
    rows = []
    for hidden, intermediate in SIZES:
        ms = measure(hidden, intermediate)
        sizes = {"tokens": TOKENS, "hidden": hidden, "intermediate": intermediate}
        rows.append(sizes | {"ms": ms} | origin.describe_origin())
        print(f"{hidden} x {intermediate}:", *(f"{name} {each:.2f} ms" for name, each in ms.items()))
    write_rows(options.out, rows)


if __name__ == "__main__":
    main()
