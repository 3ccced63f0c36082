"""A mixture-of-experts layer: one launch multiplies the tokens of all experts, each by its own weights.

    python examples/02_moe_layer.py [--tokens 128] [--hidden 256] [--inner 128] [--experts 8] [--top-k 2]

Runs in seconds on a CPU, where the library computes in plain torch, and on a Hopper GPU, where it runs the
kernels and defaults to larger sizes. 01_dense_fp8_gemm.py comes first: it explains FP8 and its scales.

In a language model every token passes through feed-forward layers: up to a wider space, a nonlinearity, and
down again. A mixture-of-experts layer has many of those, the experts, and sends each token to a few of them:
the model knows more, and a token costs no more. For a GPU that means many matrix products at once, whose
sizes differ every time and are known to the GPU alone. A grouped GEMM is all of them in one launch.
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import cute_gemm
from cute_gemm.runtime.hardware import is_hopper
from cute_gemm.testing import time_cold, worst_tile_error

Operand = tuple[Tensor, Tensor]
"""e4m3 values and their scales."""


class Routing(NamedTuple):
    """Who computes what. A token that is sent to two experts becomes two rows."""

    expert: Tensor  # [tokens * top_k]: each row's expert
    rank: Tensor  # [tokens * top_k]: how many rows of the same expert come before it
    counts: Tensor  # [experts]: rows of each expert
    weight: Tensor  # [tokens, top_k]: how much each expert's answer counts


class Layout(NamedTuple):
    """A way to keep the rows of all experts in one tensor, and the product that understands it."""

    title: str
    shape: tuple[int, ...]  # [rows], or [experts, rows of each]
    starts: Tensor  # [experts]: where an expert's rows begin, as if `shape` were one dimension
    multiply: Callable[[Operand, Operand], Tensor]


def main() -> None:
    """Route, then compute the layer in five ways and compare."""
    on_gpu = is_hopper()
    parser = argparse.ArgumentParser(description="A mixture-of-experts layer by grouped GEMMs.")
    parser.add_argument("--tokens", type=int, default=2048 if on_gpu else 128)
    parser.add_argument("--hidden", type=int, default=4096 if on_gpu else 256, help="a multiple of 16")
    parser.add_argument("--inner", type=int, default=2048 if on_gpu else 128, help="a multiple of 16")
    parser.add_argument("--experts", type=int, default=32 if on_gpu else 8)
    parser.add_argument("--top-k", type=int, default=4 if on_gpu else 2, help="experts that see a token")
    args = parser.parse_args()

    device = torch.device("cuda" if on_gpu else "cpu")
    torch.manual_seed(0)
    x = embed(args.tokens, args.hidden, device)
    # An expert has two matrices that lead up, `gate` and `up`. Both see the same rows: one product does both.
    wide = random_matrices(args.experts, 2 * args.inner, args.hidden, device)
    gate_up = cute_gemm.quantize_128x128(wide)
    back = random_matrices(args.experts, args.hidden, args.inner, device)
    down = cute_gemm.quantize_128x128(back)

    routing = route(x, args.experts, args.top_k)
    results: list[Tensor] = []
    times = []
    for layout in (loop(routing), contiguous(routing), offsets(routing), masked(routing)):
        print(layout.title)
        y, us = layer(x, routing, layout, gate_up, down)
        rows, used = math.prod(layout.shape), len(routing.expert)
        print(f"   {rows} rows" + (f", {1 - used / rows:.0%} of them empty" if rows > used else ""))
        print(f"   both products: {us:.0f} us")
        if results:
            print(f"   difference from the loop: {worst_tile_error(y, results[0]):.1e}")
        results.append(y.double())
        times.append(us)
    y, us = fused(x, routing, wide, down)
    print(f"   the whole layer: {us:.0f} us")
    truth = in_full(x, routing, wide, back)
    own, of_loop = ((each - truth).norm() / truth.norm() for each in (y, results[0]))
    print(f"   off what it is without FP8 by {own:.1%}, the loop by {of_loop:.1%}")
    if on_gpu:
        print(f"Padding to 128 took {times[1] / times[2] - 1:+.0%} time over offsets without it.")
    else:
        print("No Hopper GPU here: these are times of the reference, which mean nothing.")


def embed(tokens: int, hidden: int, device: torch.device) -> Tensor:
    """Activations [tokens, hidden] of a real text: this one."""
    # Each byte is a token with a vector of its own, and the layers before this one would have mixed in some
    # of its context. Real tokens are not spread evenly: spaces alone are a fifth of this file.
    text = Path(__file__).read_bytes()
    data = torch.tensor(list(text * (tokens // len(text) + 1))[:tokens], device=device)
    vectors = torch.randn(256, hidden, device=device)
    return vectors[data] + 0.5 * torch.randn(tokens, hidden, device=device)


def random_matrices(experts: int, n: int, k: int, device: torch.device) -> Tensor:
    """A matrix [N, K] for each expert."""
    return torch.randn(experts, n, k, device=device) / k**0.5


def route(x: Tensor, experts: int, top_k: int) -> Routing:
    """Step 1: choose experts for every token."""
    print("1. Route")
    # A small matrix, the router, scores every expert for every token. The best few get the token, and their
    # answers will be added up in proportion to their scores.
    router = torch.randn(experts, x.shape[1], device=x.device) / x.shape[1] ** 0.5
    scores = (x @ router.t()).softmax(-1)
    weight, chosen = scores.topk(top_k, -1)
    weight = weight / weight.sum(-1, keepdim=True)

    # A product wants the rows of an expert side by side. Sorting by expert tells how far down its expert's
    # rows each row is; each layout below only has to say where an expert's rows begin.
    expert = chosen.flatten()
    counts = torch.bincount(expert, minlength=experts)
    place = expert.argsort(stable=True).argsort()
    rank = place - (counts.cumsum(0) - counts)[expert]
    print(f"   {len(x)} tokens, each to {top_k} of {experts} experts, are {len(expert)} rows")
    print(f"   an expert gets {counts.min()} to {counts.max()} of them")
    return Routing(expert, rank, counts, weight)


def layer(
    x: Tensor, routing: Routing, layout: Layout, gate_up: Operand, down: Operand
) -> tuple[Tensor, float]:
    """The layer's result [tokens, hidden], and the time of its two products in microseconds."""
    top_k = routing.weight.shape[1]
    position = layout.starts[routing.expert] + routing.rank

    # Send a copy of each token to each of its experts.
    rows = x.new_zeros(math.prod(layout.shape), x.shape[1])
    rows[position] = x.repeat_interleave(top_k, 0)
    lhs = cute_gemm.quantize_1x128(rows.unflatten(0, layout.shape))
    # Up, the nonlinearity, down. Products leave rows that belong to no expert as they found them: here
    # that is fresh memory with anything in it. It stays in those rows, as nothing below mixes rows.
    gate, up = layout.multiply(lhs, gate_up).chunk(2, -1)
    middle = cute_gemm.quantize_1x128(torch.nn.functional.silu(gate) * up)
    answers = layout.multiply(middle, down)
    # Bring the answers home and add up those of each token.
    answers = answers.flatten(0, -2)[position].unflatten(0, (-1, top_k)).float()
    y = (answers * routing.weight.unsqueeze(-1)).sum(1)

    us = microseconds(lambda: layout.multiply(lhs, gate_up))
    us += microseconds(lambda: layout.multiply(middle, down))
    return y, us


def loop(routing: Routing) -> Layout:
    """Step 2: what one would do without a grouped GEMM, and what the others are compared with."""
    # The host has to know how many rows each expert has, so it waits for the GPU. Then it launches a product
    # for each, too small to keep the whole GPU busy. The time printed is that of these kernels; what the GPU
    # waits for the host between them comes on top.
    ends = routing.counts.cumsum(0)
    borders = [0, *ends.tolist()]

    def multiply(lhs: Operand, rhs: Operand) -> Tensor:
        (a, sa), (b, sb) = lhs, rhs
        out = torch.empty(a.shape[0], b.shape[1], dtype=torch.bfloat16, device=a.device)
        for expert, (start, end) in enumerate(itertools.pairwise(borders)):
            cute_gemm.fp8_gemm_nt((a[start:end], sa[start:end]), (b[expert], sb[expert]), out[start:end])
        return out

    title = "2. Loop over the experts: a launch for each of them"
    return Layout(title, (borders[-1],), ends - routing.counts, multiply)


def contiguous(routing: Routing) -> Layout:
    """Step 3: groups that begin at multiples of 128, and an index that tells each row's expert."""
    # A kernel computes tiles of many rows with one expert's weights. If no block of 128 rows has two experts,
    # one look at the index tells whose weights a tile needs. Rows between the groups are marked -1. All the
    # same they are there: somebody has to copy the rows apart, and the host waits to learn how many there are
    # now, or makes room for the worst case.
    alignment = cute_gemm.contiguous_alignment()
    padded = (routing.counts + alignment - 1) // alignment * alignment
    ends = padded.cumsum(0)
    starts, rows = ends - padded, int(ends[-1])
    index = torch.full((rows,), -1, dtype=torch.int32, device=ends.device)
    index[starts[routing.expert] + routing.rank] = routing.expert.int()

    def multiply(lhs: Operand, rhs: Operand) -> Tensor:
        return cute_gemm.m_grouped_fp8_gemm_nt_contiguous(lhs, rhs, index)

    title = f"3. Contiguous: one launch, each expert's rows padded to a multiple of {alignment}"
    return Layout(title, (rows,), starts, multiply)


def offsets(routing: Routing) -> Layout:
    """Step 4: groups of any size, one behind the other."""
    # All that the kernel needs is where each group ends. It cuts every group into tiles by itself, from the
    # group's first row on, and of a group's last tile it stores the group's own rows only. The rows are as
    # many as before, and nobody waits: sizes stay on the GPU.
    ends = routing.counts.cumsum(0, dtype=torch.int32)

    def multiply(lhs: Operand, rhs: Operand) -> Tensor:
        return cute_gemm.m_grouped_fp8_gemm_nt_offsets(lhs, rhs, ends)

    title = "4. Offsets: one launch, no padding"
    return Layout(title, (len(routing.expert),), ends - routing.counts, multiply)


def masked(routing: Routing) -> Layout:
    """Step 5: for every expert a matrix of the same size, of which the first rows count."""
    # Nothing but `valid_rows` depends on the sizes: where each expert's rows begin is settled beforehand. A
    # server can record the layer as a CUDA graph and replay it for every token it generates. The price is
    # memory. An expert may get every token, so each has room for all of them: for the hundred tokens of a
    # hundred conversations that is little, for thousands a lot. Tiles without a valid row take no time.
    # `expected_rows` is a guess that helps to choose a kernel; results do not depend on it.
    tokens, top_k = routing.weight.shape
    experts = len(routing.counts)
    valid_rows = routing.counts.int()
    starts = torch.arange(experts, device=valid_rows.device) * tokens
    expected_rows = -(-tokens * top_k // experts)

    def multiply(lhs: Operand, rhs: Operand) -> Tensor:
        return cute_gemm.m_grouped_fp8_gemm_nt_masked(lhs, rhs, valid_rows, expected_rows)

    title = "5. Masked: one launch, a matrix of fixed size for each expert"
    return Layout(title, (experts, tokens), starts, multiply)


def fused(x: Tensor, routing: Routing, wide: Tensor, down: Operand) -> tuple[Tensor, float]:
    """Step 6: the whole layer in one call, and its time."""
    # All of `layer` above but the products goes through memory for little work, and takes as long as they do.
    # A product may do more with a sum before it stores it. If the columns of `gate` and `up` alternate, eight
    # by eight, a thread has both of what it needs for the nonlinearity, and has the result quantised too: the
    # second product reads what the first has written, as it is. The second multiplies by the weights of
    # routing. What is left is to sort the rows before, while they are quantised, and to add them up behind.
    print("6. Fused: five kernels, from choices to the result")
    gate, up = wide.chunk(2, 1)
    gate_up = cute_gemm.quantize_128x128(cute_gemm.interleave_gate_up(gate, up))
    chosen, weight = routing.expert.view(routing.weight.shape), routing.weight.contiguous()

    def compute() -> Tensor:
        return cute_gemm.moe.expert_layer(x, gate_up, down, chosen, weight)

    # Weights lie otherwise, so other ones share a scale; and what is between the products is not rounded to
    # bf16 before it is quantised. So it is not the same to the last bit, but as near to the truth.
    return compute().double(), microseconds(compute)


def in_full(x: Tensor, routing: Routing, wide: Tensor, back: Tensor) -> Tensor:
    """The layer's result without FP8."""
    y = torch.zeros_like(x, dtype=torch.float64)
    for expert in range(len(routing.counts)):
        rows = (routing.expert == expert).nonzero().squeeze(1)
        tokens = rows // routing.weight.shape[1]
        gate, up = (x[tokens].double() @ wide[expert].double().t()).chunk(2, -1)
        answers = (torch.nn.functional.silu(gate) * up) @ back[expert].double().t()
        y.index_add_(0, tokens, answers * routing.weight.flatten()[rows, None].double())
    return y


def microseconds(multiply: Callable[[], Tensor]) -> float:
    """Time of a call: on a GPU that of its kernels, with the L2 cache flushed before; else the host's."""
    if is_hopper():
        return time_cold(multiply).median_us
    start = time.perf_counter()
    multiply()
    return (time.perf_counter() - start) * 1e6


if __name__ == "__main__":
    main()
