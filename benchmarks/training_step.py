"""A training step of a gated MLP, forward and backward: FP8 layers beside `torch.compile`d bf16 ones.

    python benchmarks/training_step.py --out FILE

Each step begins with parameters without gradients and, as parameters change between steps, without FP8 values
of the weights. Steps of all ways take turns; a sample is of several steps one after the other.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

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


def seconds(step: Callable[[], None]) -> float:
    """Of one step, on the GPU's clock."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(STEPS):
        step()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / STEPS / 1e3


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
            samples[name].append(seconds(step))
    return {name: round(1e3 * statistics.median(each), 3) for name, each in samples.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a file of JSON lines")
    options = parser.parse_args()
    with options.out.open("w", encoding="utf-8") as file:
        for hidden, intermediate in SIZES:
            ms = measure(hidden, intermediate)
            line = {
                "device": torch.cuda.get_device_name(),
                "tokens": TOKENS,
                "hidden": hidden,
                "intermediate": intermediate,
                "ms": ms,
            }
            print(json.dumps(line, separators=(",", ":")), file=file, flush=True)
            print(f"{hidden} x {intermediate}:", *(f"{name} {each:.2f} ms" for name, each in ms.items()))


if __name__ == "__main__":
    main()
