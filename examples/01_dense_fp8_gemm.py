"""FP8 matrix multiplication from the beginning: quantise, multiply, check, time.

    python examples/01_dense_fp8_gemm.py [--m 256] [--n 2112] [--k 7168]

Runs in seconds on a CPU, where the library computes in plain torch, and on a Hopper GPU, where it runs the
kernel. The job is a linear layer's: activations x [M, K], one row per token, times a weight w [N, K] stored
as PyTorch stores it, so y = x @ w.T is [M, N].
"""

import argparse

import torch

import cute_gemm
from cute_gemm.plan.data_sheets import data_sheet
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.runtime.hardware import is_hopper
from cute_gemm.testing import time_cold, worst_tile_error


def main() -> None:
    """Walk through the four steps."""
    parser = argparse.ArgumentParser(description="FP8 matrix multiplication from the beginning.")
    parser.add_argument("--m", type=int, default=256, help="tokens")
    parser.add_argument("--n", type=int, default=2112, help="output features, a multiple of 8")
    parser.add_argument("--k", type=int, default=7168, help="input features, a multiple of 16")
    args = parser.parse_args()

    device = torch.device("cuda" if is_hopper() else "cpu")
    torch.manual_seed(0)
    x = torch.randn(args.m, args.k, device=device, dtype=torch.bfloat16)
    w = torch.randn(args.n, args.k, device=device, dtype=torch.bfloat16)

    a, b = quantise(x, w)
    why_promotion(x, w)
    y = multiply(a, b)
    check(y, a, b, x, w)
    time(a, b, y)


def quantise(x: torch.Tensor, w: torch.Tensor) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Step 1: store numbers in 8 bits, and see what scales are for."""
    print("1. Quantise")
    # e4m3 has a sign, 4 bits of exponent and 3 of mantissa. Its largest value is 448; between two powers of
    # two there are 8 steps, so rounding costs up to 1/16 of a value; and below 2**-10 everything rounds to
    # zero. Numbers have to be moved into that range first: stored value = value / scale. The scale is the
    # largest magnitude / 448.
    #
    # One scale for a whole tensor is fine until one value is much larger than the rest. Activations of
    # language models are like that: a few channels are a thousand times larger. The scale follows the
    # outlier, and the others fall off the lower end of the format.
    outlier = x.float()
    outlier[0, 0] = 1e6
    scale = outlier.abs().max() / 448
    one_scale = (outlier / scale).to(torch.float8_e4m3fn).float() * scale
    # With one scale per row and 128 columns, an outlier spoils its 127 neighbours and nobody else.
    fine = cute_gemm.dequantize_1x128(*cute_gemm.quantize_1x128(outlier))
    small = outlier.abs() < 1e3
    coarse_error = relative_error(one_scale[small], outlier[small])
    fine_error = relative_error(fine[small], outlier[small])
    print(f"   beside one value of 1e6, with one scale for all: {coarse_error:.1%} error")
    print(f"   beside one value of 1e6, with a scale per 128:   {fine_error:.1%} error")

    # Activations change with every call and their outliers sit in single tokens: 1x128. Weights are quantised
    # once and behave better: one scale per 128x128 block. That is 128 times fewer scales, and inside a block
    # of B a kernel needs one scale of B only.
    a, sa = cute_gemm.quantize_1x128(x)
    b, sb = cute_gemm.quantize_128x128(w)
    print(f"   a {list(a.shape)} {a.dtype}, its scales {list(sa.shape)} {sa.dtype}")
    print(f"   b {list(b.shape)} {b.dtype}, its scales {list(sb.shape)} {sb.dtype}")
    return (a, sa), (b, sb)


def why_promotion(x: torch.Tensor, w: torch.Tensor) -> None:
    """Aside: why sums leave the tensor core every 128 columns."""
    # A Hopper tensor core multiplies e4m3 exactly but keeps only about 14 bits of the running sum. A long sum
    # grows, and more and more of each new term falls below its last bit. So kernels take the sum out every
    # 128 columns and add it up in FP32, on the ordinary cores. This is called promotion. It is also where the
    # scales come in: they are constant over exactly those 128 columns. Here is the effect, modelled on one
    # row of x against all of w.
    products = x[0].float() * w.float()
    terms = torch.nn.functional.pad(products, (0, -products.shape[1] % 128)).unflatten(1, (-1, 32)).sum(2)
    exact = products.double().sum(1)
    kept = sum_in_14_bits(terms)
    promoted = sum_in_14_bits(terms.unflatten(1, (-1, 4)).flatten(0, 1)).view(w.shape[0], -1).sum(1)
    print(f"   sum over K kept in the tensor core: {relative_error(kept, exact):.3%} error")
    print(f"   promoted to FP32 every 128 columns: {relative_error(promoted, exact):.3%} error")


def sum_in_14_bits(terms: torch.Tensor) -> torch.Tensor:
    """Sum fp32 [rows, terms] along each row, cutting the running sum to 14 significant bits every time."""
    total = torch.zeros_like(terms[:, 0])
    for term in terms.unbind(1):
        # An fp32 number stores 23 bits of its mantissa and implies one; 14 in all are 13 stored.
        total = ((total + term).view(torch.int32) & -(1 << 10)).view(torch.float32)
    return total


def multiply(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Step 2: one call."""
    print("2. Multiply")
    # The first call on a GPU compiles a kernel, which takes seconds; the kernel is then kept on disk. Sizes
    # are its arguments: a later call compiles only where it needs a kernel that no call before it did.
    y = cute_gemm.fp8_gemm_nt(a, b)
    print(f"   y {list(y.shape)} {y.dtype} on {y.device}")
    return y


def check(
    y: torch.Tensor,
    a: tuple[torch.Tensor, torch.Tensor],
    b: tuple[torch.Tensor, torch.Tensor],
    x: torch.Tensor,
    w: torch.Tensor,
) -> None:
    """Step 3: two questions that must not be mixed up."""
    print("3. Check")
    # How well was the product of the quantised operands computed? This is the kernel's own error. Rounding
    # the exact result to bf16 alone gives 1.4e-6 on data like this; more means that a kernel lost something.
    quantised = cute_gemm.dequantize_1x128(*a, dtype=torch.float64)
    quantised = quantised @ cute_gemm.dequantize_128x128(*b, dtype=torch.float64).T
    # How far is that from the product one wanted? This is the price of 8 bits, whatever the kernel.
    wanted = x.double() @ w.double().T
    # The figure is 1 - 2<y,r> / (<y,y> + <r,r>): half the squared relative difference, so 1.4e-6 is 0.17 %
    # and 6.8e-4 is 3.7 %. It is taken per 128x128 tile, and the worst tile counts: over a large output as a
    # whole, a tile full of zeros would hardly show.
    print(f"   against the product of the quantised operands: {worst_tile_error(y, quantised):.2e}")
    print(f"   against the product before quantisation:       {worst_tile_error(y, wanted):.2e}")


def time(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor], y: torch.Tensor) -> None:
    """Step 4: how fast, and how fast it could be."""
    print("4. Time")
    if not y.is_cuda:
        print("   no Hopper GPU here: this was the reference, whose speed means nothing")
        return
    # The L2 cache is flushed before each call, as in a model other layers' weights have passed through it
    # since. By dependent launch the kernel would start during the flush, and its wait would count.
    with cute_gemm.config(pdl=False):
        us = time_cold(lambda: cute_gemm.fp8_gemm_nt(a, b, y)).median_us
    (m, k), (n, _) = a[0].shape, b[0].shape
    problem = GemmProblem(m, n, k)
    print(f"   {us:.1f} us, {problem.flops / us * 1e-6:.0f} TFLOP/s")
    # No kernel can be faster than the tensor cores multiply or the memory delivers, whichever takes longer.
    if sheet := data_sheet(torch.cuda.get_device_name(y.device)):
        print(f"   {sheet.limit_us(problem) / us:.0%} of the speed that the data sheet of this card allows")


def relative_error(values: torch.Tensor, truth: torch.Tensor) -> float:
    """Norm of the difference over the norm of `truth`."""
    return ((values - truth).norm() / truth.norm()).item()


if __name__ == "__main__":
    main()
