"""Your mainloop: sums that stay in the tensor cores for longer.

    python examples/yours/03_mainloop.py

Hopper's tensor cores add FP8 products with about 14 bits. So the library's kernels take a sum out after each
k-block of 128 columns and add it up in FP32: the promotion. It costs an FP32 operation for each element and
k-block. The mainloop below promotes every 256 columns, or only once, at the end. All else is the library's:
TMA, the ring of stages, the scheduler, the store.

K-blocks that stay together in the tensor cores cannot be scaled one by one, so they must have the same
scales. Here all scales are 1.

A mainloop is an object with two methods. `skipped_stages` says how many stages of the ring stay empty behind
a tile: none here. `__call__` is the work of a math warpgroup for one tile: it waits for stages, multiplies,
gives the stages back, and leaves the sums in `accs`. Scales come from a *feed*, which is asked for each
k-block in order.

On any machine this prints how far a model of such sums is off, and what the kernels were compiled to: compare
WGMMA and FP32 operations in the loops over k-blocks.

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| the library's, every 128 | 4096x4096x7168 | 177.1 | 1358 TFLOP/s | 68.6% | 1.4e-06 | 168 |
| yours, every 256 | 4096x4096x7168 | 182.7 | 1316 TFLOP/s | 66.5% | 1.5e-06 | 168 |
| yours, every 512 | 4096x4096x7168 | 185.3 | 1298 TFLOP/s | 65.6% | 1.5e-06 | 168 |
| yours, once | 4096x4096x7168 | 170.8 | 1408 TFLOP/s | 71.1% | 3.3e-06 | 168 |

## What follows

Promoting once takes 170.8 us, and every 128 columns 177.1: promotion costs 4 % of the time, or more, if the
library's loop is the better one. What it is for is the other column: an error of 1.4e-06, where rounding to
bf16 alone gives that much, and 3.3e-06 without. These are errors of data with random signs. Sums of numbers
of one sign grow with K, and lose more.

Promoting every 256 or 512 columns is *slower*, 182.7 and 185.3 us, though it saves half of the FFMAs, and
three quarters. Why is not known. It is not the number of instructions: the loop of every 256 has 172 for two
k-blocks, that of the library 471 for four. What differs besides: the library's loop is unrolled by four
k-blocks, so that stages are known when compiling, and it asks whether the next stage is full before it
promotes. The loop here does neither, to be short. The one that promotes once does neither as well and is
faster, so it may also be the change from summing to promoting that costs. Fewer promotions alone are no gain.

## Break it

Write `warpgroup.wait_group(2)` in `sum_up`. A stage is then given back while a WGMMA may still read it, and
TMA fills it with another k-block. The product is wrong only where TMA comes first, so it may differ from run
to run, or look right on one card and shape. Nothing but the order of these two lines protects a stage.
"""

from dataclasses import dataclass
from typing import ClassVar

import cutlass
import cutlass.cute as cute
import torch
from cutlass import Int32, const_expr
from cutlass.cute.nvgpu import warpgroup

from cute_gemm.kernels.mainloop import multiply
from cute_gemm.plan.config import KernelConfig
from cute_gemm.reference import dequantized_product
from cute_gemm.runtime import build, launch
from cute_gemm.testing import worst_tile_error
from cute_gemm.testing.programs import Trial, Tutorial, present
from cute_gemm.testing.rungs import operands

# Each of two math warpgroups has one fragment: 64 sums a thread, and as many partial ones.
CONFIG = KernelConfig(128, 128, stages=6)
SHAPE = 4096, 4096, 7168


@dataclass(frozen=True)
class LongRuns:
    """A mainloop that promotes once for a run of k-blocks, or for all of them."""

    run: int  # k-blocks; 0 for all
    group: ClassVar[int] = 4  # k-blocks after which the feed of the library's scaling does the same again

    def skipped_stages(self, k_count):
        return Int32(0)

    @cute.jit
    def __call__(self, inputs, state, tile, has_rows, accs):
        (acc,) = accs  # of several fragments, each would need partial sums of its own
        partial = cute.make_rmem_tensor_like(acc)
        promote = inputs.scales.promotion(tile)
        acc.fill(0.0)
        inputs.scales.begin(tile)
        k_first = Int32(0)
        if const_expr(self.run > 0):
            k_first = tile.k_count // self.run * self.run
            for k in cutlass.range(0, k_first, self.run, unroll=1):
                state, scales = self.sum_up(inputs, state, tile, partial, k, self.run)
                promote(acc, partial, scales, 0, 0)
        if k_first < tile.k_count:
            state, scales = self.sum_up(inputs, state, tile, partial, k_first, tile.k_count - k_first)
            promote(acc, partial, scales, 0, 0)
        return state

    @cute.jit
    def sum_up(self, inputs, state, tile, partial, k, count):
        inputs.ring.consumer_wait(state)
        staged = inputs.scales.read(state)
        multiply(partial, inputs, 0, 0, state.index)
        scales = inputs.scales.hand_out(staged, tile, k, k % self.group)
        for i in cutlass.range(1, count, unroll=1):
            before = state.clone()
            state.advance()
            inputs.ring.consumer_wait(state)
            staged = inputs.scales.read(state)
            multiply(partial, inputs, 0, 0, state.index, adds=True)
            scales = inputs.scales.hand_out(staged, tile, k + i, (k + i) % self.group)
            # All WGMMAs but the last k-block's have ended: nobody reads the stage before any more.
            warpgroup.wait_group(1)
            inputs.ring.consumer_release(before)
        warpgroup.wait_group(0)
        inputs.ring.consumer_release(state)
        state.advance()
        return state, scales


def make(device):
    """Operands, all scales of which are 1, and their product."""
    lhs, rhs = operands(SHAPE, False, device)
    return lhs, rhs, dequantized_product(*lhs, *rhs)


def call(program, inputs, out):
    """One launch."""
    launch(program, *inputs[:2], out=out)


def within(limit):
    """What judges a result: no tile may be off by more than a limit."""

    def judge(inputs, out):
        error = worst_tile_error(out, inputs[2])
        assert error <= limit, f"the worst tile's error is {error:.2e}, the limit {limit:.1e}"
        return error

    return judge


# Rounding to bf16 alone is 1.4e-6.
TUTORIAL = Tutorial(
    "03_mainloop",
    SHAPE,
    (
        Trial("the library's, every 128", build(CONFIG), call, within(1.6e-6)),
        Trial("yours, every 256", build(CONFIG, mainloop=LongRuns(2)), call, within(2e-6)),
        Trial("yours, every 512", build(CONFIG, mainloop=LongRuns(4)), call, within(2e-6)),
        Trial("yours, once", build(CONFIG, mainloop=LongRuns(0)), call, within(6e-6)),
    ),
    make,
)


def sum_cut(products, columns):
    """A model of tensor cores.

    The products of 32 columns and the sum so far are cut 13 bits below the largest of them, then added.
    """
    parts = products.unflatten(-1, (-1, columns))
    total = torch.zeros(parts.shape[:-1])
    for terms in parts.split(32, -1):
        largest = terms.abs().amax(-1).maximum(total.abs())
        bit = torch.ldexp(torch.ones_like(total), torch.frexp(largest).exponent - 14)
        total = ((terms / bit[..., None]).trunc().sum(-1) + (total / bit).trunc()) * bit
    return total.sum(-1)


def model():
    """How far such sums are off, by how often they are promoted."""
    k = SHAPE[2]
    a, b = (torch.randn(rows, k, generator=torch.Generator().manual_seed(rows)) for rows in (16, 32))
    a, b = (x.to(torch.float8_e4m3fn).float() for x in (a, b))
    exact = a.double() @ b.double().T
    for columns in (128, 256, 512, k):
        error = worst_tile_error(sum_cut(a[:, None] * b, columns), exact)
        print(f"a model, promoted every {columns} of {k} columns: error {error:.1e} before rounding")


if __name__ == "__main__":
    model()
    present(TUTORIAL)
