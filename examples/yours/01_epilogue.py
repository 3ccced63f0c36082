"""Your epilogue: a plain function of the sum, in the kernel.

    python examples/yours/01_epilogue.py

A layer seldom wants a bare product. What comes behind it is cheap to compute, but as a kernel of its own it
reads and writes all of D once more. An epilogue does it while the sums are in registers. This one adds a
bias, caps what comes out softly, as some language models do to keep values in range, and adds a residual.

An epilogue is a plain Python function of one sum and of numbers beside it. The decorator makes of it what
takes the operands: what `per_column` and `like_out` say is where an element finds its number. The function is
called twice. On the CPU it gets torch's tensors: that is the reference. When a kernel is compiled it gets
registers, one by one, and its operations become instructions.

`fp8_gemm_nt(lhs, rhs, epilogue=...)` is all that a layer needs. `build` and `launch` take the same epilogue,
for who wants to choose the tile: here, to time it beside the same kernel without it.

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| the library's, without | 4096x4096x7168 | 177.0 | 1359 TFLOP/s | 68.7% | 1.4e-06 | 168 |
| the library's, then torch | 4096x4096x7168 | 468.7 | 513 TFLOP/s | 25.9% | 1.5e-06 | 168 |
| yours | 4096x4096x7168 | 201.8 | 1192 TFLOP/s | 60.2% | 1.3e-06 | 168 |

## What follows

The function costs 24.8 us in the kernel: 201.8 us, beside 177.0 without it. As torch's kernels behind the
product it costs 291.7, which makes 468.7. So the whole layer is more than twice as fast.

24.8 us are still more than the function should take. The residual is 34 MB, 7 us at the card's bandwidth. It
is loaded at the end of a tile, when the sums are there, and the warpgroup waits for it. A residual that TMA
brings while the tile is computed would not be waited for; the library does not do that yet
(docs/performance.md, 81).

## Break it

Use an `if`: `return CAP if x > CAP else x`. The decorator calls the function with stand-ins for numbers and
refuses it at once: it asks whether a value holds, which no kernel knows while it is compiled. The message
names `epilogue.where`.
"""

from dataclasses import dataclass

import torch

import cute_gemm
from cute_gemm import epilogue
from cute_gemm.plan.config import KernelConfig
from cute_gemm.reference import dequantized_product
from cute_gemm.runtime import build, launch
from cute_gemm.testing import assert_close_per_tile, make_inputs, worst_tile_error
from cute_gemm.testing.programs import Trial, Tutorial, present

CONFIG = KernelConfig(128, 128, stages=6)
SHAPE = 4096, 4096, 7168
CAP = 50.0


@epilogue.function
def capped(x, bias, residual):
    """The function: what becomes of each sum."""
    # Not `/ CAP`: a division is several instructions, by a constant, too.
    return residual + CAP * epilogue.tanh((x + bias) * (1 / CAP))


def in_torch(sums, bias, residual):
    """The same by torch, for comparison."""
    return residual + CAP * torch.tanh((sums.float() + bias) / CAP)


@dataclass(frozen=True)
class Inputs:
    """What a layer has: operands, and what the epilogue takes."""

    lhs: tuple[torch.Tensor, torch.Tensor]
    rhs: tuple[torch.Tensor, torch.Tensor]
    bias: torch.Tensor
    residual: torch.Tensor

    @property
    def as_epilogue(self):
        return capped(epilogue.per_column(self.bias), epilogue.like_out(self.residual))


def random_inputs(m, n, k, device):
    """Random ones."""
    random = torch.Generator(device=device).manual_seed(1)
    bias = torch.randn(n, generator=random, device=device)
    residual = torch.randn(m, n, generator=random, device=device).bfloat16()
    return Inputs(*make_inputs(m, n, k, device=device), bias, residual)


def make(device):
    """Those of the shape that is timed, with the sums that they should give."""
    inputs = random_inputs(*SHAPE, device)
    return inputs, dequantized_product(*inputs.lhs, *inputs.rhs)


def call_alone(program, given, out):
    """The product, and nothing else."""
    inputs, _ = given
    launch(program, inputs.lhs, inputs.rhs, out=out)


def call_and_torch(program, given, out):
    """The product, then torch."""
    inputs, _ = given
    launch(program, inputs.lhs, inputs.rhs, out=out)
    out.copy_(in_torch(out, inputs.bias, inputs.residual))


def call_with_epilogue(program, given, out):
    """One launch."""
    inputs, _ = given
    launch(program, inputs.lhs, inputs.rhs, out=out, epilogue=inputs.as_epilogue)


def judge_sums(given, out):
    """The product."""
    assert_close_per_tile(out, given[1])
    return worst_tile_error(out, given[1])


def judge(given, out):
    """What the function makes of it; a kernel's tanh is good to 2^-11, and torch rounds twice."""
    inputs, sums = given
    error = worst_tile_error(out, in_torch(sums, inputs.bias, inputs.residual))
    assert error <= 4e-6, f"the worst tile's error is {error:.2e}"
    return error


def tutorial():
    """The kernels; what operands are like is known before there are any."""
    like = random_inputs(8, 128, 128, "cpu")
    own = build(CONFIG, epilogue=like.as_epilogue)
    plain = build(CONFIG)
    return Tutorial(
        "01_epilogue",
        SHAPE,
        (
            Trial("the library's, without", plain, call_alone, judge_sums),
            Trial("the library's, then torch", plain, call_and_torch, judge),
            Trial("yours", own, call_with_epilogue, judge),
        ),
        make,
        opcodes={"tanh": ("MUFU.TANH",)},
    )


TUTORIAL = tutorial()


def on_the_cpu():
    """The operation computes the same where there is no GPU, with the same function."""
    inputs = random_inputs(64, 256, 512, "cpu")
    out = cute_gemm.fp8_gemm_nt(inputs.lhs, inputs.rhs, epilogue=inputs.as_epilogue)
    sums = dequantized_product(*inputs.lhs, *inputs.rhs)
    error = worst_tile_error(out, in_torch(sums, inputs.bias, inputs.residual))
    print(f"on the CPU, with the function as the reference: error {error:.1e}, of rounding to bf16")


if __name__ == "__main__":
    on_the_cpu()
    present(TUTORIAL)
