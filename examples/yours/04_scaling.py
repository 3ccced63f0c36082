"""Your scaling: one scale a token, one a channel.

    python examples/yours/04_scaling.py

The library's recipe has a scale for each row of A and 128 columns, and for each 128x128 block of B. Many
checkpoints are quantised otherwise: each row of A, a token, has one FP32 scale, and each row of B, a channel
of the result, has one. Such scales do not depend on K, so they can wait for the whole sum:

    D[m, n] = sa[m] * sb[n] * sum over k of A[m, k] * B[n, k]

Four parts say so. The *recipe* says how many elements share a scale: `launch` checks by it that `sa` is [M,
1] and `sb` [N, 1]. The *scaling* is what a main loop asks for scales: there are none, and partial sums are
added as they are, still every 128 columns. The *value* is what becomes of a whole sum: it is multiplied by
two scales. And the *kernel* is the library's, but hands the tensors of scales to the value.

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| the library's | 4096x4096x7168 | 180.6 | 1332 TFLOP/s | 67.3% | 1.4e-06 | 168 |
| yours, per token and channel | 4096x4096x7168 | 175.0 | 1374 TFLOP/s | 69.5% | 1.4e-06 | 168 |

## What follows

175.0 us, where the library's recipe takes 180.6: 3 % less. The main loop has no loads of scales any more, no
shuffles and no products of scales: 448 instructions for four k-blocks, not 471. It has as many FP32
operations on sums as before. The scales are loaded once a tile, while the math warpgroup has nothing else to
do; that costs less than the loop saves, with 56 k-blocks. What such scales allow beyond that is to promote
less often: 03_mainloop.py says what that gains, and what it does not.

e4m3 has an exponent, so on most data both recipes are about as good: the errors here are the same. A value
that is ten thousand times larger than the others in its token costs all of these their precision; with blocks
only those in its 128 columns.

## Break it

Let `add` store `partial[i]` and not add it. Each k-block then replaces the sum of those before, and most of
the result is missing. With K = 128 there is one k-block, and nothing is wrong: test several shapes.
"""

from dataclasses import dataclass
from typing import ClassVar

import cutlass
import cutlass.cute as cute
import torch
from cutlass import Float32

import cute_gemm
from cute_gemm.kernels.epilogue import Identity
from cute_gemm.kernels.gemm_fp8_1d2d import Fp8Gemm1D2D
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.recipe import WHOLE, Recipe
from cute_gemm.reference import dequantized_product
from cute_gemm.runtime import build, launch
from cute_gemm.testing import assert_close_per_tile, worst_tile_error
from cute_gemm.testing.programs import Trial, Tutorial, present

E4M3 = "float8_e4m3fn"
TOKEN_CHANNEL = Recipe("token_channel", E4M3, E4M3, scale_m=1, scale_n=1, scale_k=WHOLE, promote_k=128)
TILE = {"block_m": 128, "block_n": 128, "stages": 6}
CONFIG = KernelConfig(**TILE, recipe=TOKEN_CHANNEL)
SHAPE = 4096, 4096, 7168


def add(acc, partial, scales, m, n):
    """A promotion without scales."""
    for i in range(cute.size(acc)):
        acc[i] = acc[i] + partial[i]


@dataclass(frozen=True)
class Unscaled:
    """A scaling that loads nothing; it is also the feed that a math warpgroup asks."""

    group: ClassVar[int] = 4  # the main loop goes by four k-blocks, as it does with scales
    stage_bytes: ClassVar[int] = 0
    fetches_ahead: ClassVar[bool] = False

    @property
    def Storage(self):
        @cute.struct
        class Storage:
            nothing: cute.struct.MemRange[Float32, 0]

        return Storage

    def operands(self, mSFA, mSFB):
        return ()

    def prefetch(self, operands):
        pass

    def open(self, storage):
        pass

    def along_k(self, operands, shared, tile):
        return ()

    def load(self, operands, parts, k, state, barrier, mask):
        pass

    def feed(self, operands, shared, row):
        return self

    # From here on, the feed's: for each tile `start`, `promotion`, `begin`, for each k-block the last two.

    def start(self, tile):
        pass

    def promotion(self, tile):
        return add

    def begin(self, tile):
        pass

    def read(self, state):
        pass

    def hand_out(self, staged, tile, k, place):
        return ()


@dataclass(frozen=True)
class TokenTimesChannel(Identity):
    """A value: sums times the scales of their row and of their column."""

    def operands(self, mSFA, mSFB):
        return mSFA, mSFB  # (M, 1, matrices), (N, 1, matrices)

    @cute.jit
    def __call__(self, sums, place, operands, fetched):
        of_tokens, of_channels = operands
        # A thread has two rows. They may lie beyond the last, as columns may: those are not stored.
        last_row, last_column = of_tokens.shape[0] - 1, of_channels.shape[0] - 1
        rows = [cutlass.min(place.row_of(element), last_row) for element in (0, 2)]
        tokens = [of_tokens[row, 0, place.m_group] for row in rows]
        for i in cutlass.range_constexpr(0, cute.size(sums), 4):
            for j in cutlass.range_constexpr(2):
                column = cutlass.min(place.column_of(i + j), last_column)
                channel = of_channels[column, 0, place.group]
                # Of one column, one register in each of the two rows.
                sums[i + j] = sums[i + j] * tokens[0] * channel
                sums[i + j + 2] = sums[i + j + 2] * tokens[1] * channel
        return sums


class TokenChannelGemm(Fp8Gemm1D2D):
    """The library's kernel, whose value is given the scales."""

    def start(self, mA, mSFA, mB, mSFB, mD, options, grouping, of_value):
        of_value = (*of_value, mSFA, mSFB)
        Fp8Gemm1D2D.start(self, mA, mSFA, mB, mSFB, mD, options, grouping, of_value)


def quantize_token_channel(x):
    """Rows in e4m3, and the scale of each: its largest magnitude is stored as 448."""
    scales = x.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / 448
    return (x / scales).to(torch.float8_e4m3fn), scales


def token_channel_product(lhs, rhs):
    """The product of the dequantised operands."""
    (a, sa), (b, sb) = lhs, rhs
    return a.double() @ b.double().T * sa.double() * sb.double().T


def normal(m, n, k, device):
    """Values of A and B."""
    random = torch.Generator(device=device).manual_seed(0)
    return [torch.randn(rows, k, generator=random, device=device) for rows in (m, n)]


def make(device):
    """For each recipe its operands, and their product."""
    x, w = normal(*SHAPE, device)
    blocks = cute_gemm.quantize_1x128(x), cute_gemm.quantize_128x128(w)
    rows = quantize_token_channel(x), quantize_token_channel(w)
    return {
        "blocks": (*blocks, dequantized_product(*blocks[0], *blocks[1])),
        "token_channel": (*rows, token_channel_product(*rows)),
    }


def trial(title, recipe, program):
    """A kernel, for the operands of a recipe."""

    def call(program, inputs, out):
        lhs, rhs, _ = inputs[recipe]
        launch(program, lhs, rhs, out=out)

    def judge(inputs, out):
        truth = inputs[recipe][2]
        assert_close_per_tile(out, truth)
        return worst_tile_error(out, truth)

    return Trial(title, program, call, judge)


OWN = build(CONFIG, kernel=TokenChannelGemm, scaling=Unscaled(), value=TokenTimesChannel())
TUTORIAL = Tutorial(
    "04_scaling",
    SHAPE,
    (
        trial("the library's", "blocks", build(KernelConfig(**TILE))),
        trial("yours, per token and channel", "token_channel", OWN),
    ),
    make,
    opcodes={"shuffles": ("SHFL",), "additions": ("FADD",)},
)


def precision():
    """What quantising costs by either recipe."""
    for factor in (1, 1_000, 100_000):
        x, w = normal(64, 128, 1024, "cpu")
        x[:, 0] *= factor
        # Without the large value's own products, which drown all others.
        wanted = x[:, 1:].double() @ w[:, 1:].double().T
        (a, sa), (b, sb) = quantize_token_channel(x), quantize_token_channel(w)
        a.view(torch.uint8)[:, 0] = 0
        by_rows = worst_tile_error(token_channel_product((a, sa), (b, sb)), wanted)
        (a, sa), (b, sb) = cute_gemm.quantize_1x128(x), cute_gemm.quantize_128x128(w)
        a.view(torch.uint8)[:, 0] = 0
        by_blocks = worst_tile_error(dequantized_product(a, sa, b, sb), wanted)
        what = f"a value in each token {factor} times as large"
        print(f"{what}: error {by_rows:.0e} of the others per token and channel, {by_blocks:.0e} by blocks")


if __name__ == "__main__":
    precision()
    present(TUTORIAL)
