"""Routing and combining in kernels, against torch bit for bit; layers against their parts, and in graphs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tensors import bits
from torch import Tensor

import cute_gemm
from cute_gemm import moe
from cute_gemm.moe import combining, routing

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@pytest.fixture(autouse=True)
def no_torch_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a kernel should have run, torch must not have."""
    for module in routing, combining:
        real = module._in_torch  # type: ignore[attr-defined]

        def on_the_cpu(first: Tensor, *given: Any, real: Any = real) -> None:
            assert first.is_cpu, "torch computed on the GPU"
            real(first, *given)

        monkeypatch.setattr(module, "_in_torch", on_the_cpu)


def drawn(tokens: int, per_token: int, last: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(-1, last, (tokens, per_token), generator=draw)
    return ids, torch.rand(tokens, per_token, generator=draw)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("has_weights", [False, True])
@pytest.mark.parametrize(
    ("tokens", "per_token", "experts", "first"),
    [
        (1, 8, 256, 0),
        (7, 1, 1, 0),
        (31, 3, 5, 2),
        (128, 8, 128, 0),
        (512, 8, 32, 96),
        (513, 8, 160, 0),
        (4099, 6, 1022, 1),
        (16384, 8, 64, 7),
    ],
)
def test_rows_are_sorted_as_torch_sorts_them(
    tokens: int, per_token: int, experts: int, first: int, has_weights: bool, dtype: torch.dtype
) -> None:
    ids, weights = drawn(tokens, per_token, first + experts + 2)
    ids = ids.to(dtype)
    given = weights if has_weights else None
    wanted = moe.route(ids, experts, given, first_expert=first)
    here = None if given is None else given.cuda()
    for _ in range(20):
        # What is not written would be this.
        torch.full((4 * ids.numel() + experts,), -99, dtype=torch.int32, device="cuda")
        found = moe.route(ids.cuda(), experts, here, first_expert=first)
        for got, want in zip(found, wanted, strict=True):
            assert (got is None) == (want is None)
            if got is not None:
                assert torch.equal(got.cpu(), want)


def test_experts_of_one_token_and_experts_of_all() -> None:
    for ids in torch.zeros(300, 4, dtype=torch.int32), torch.full((300, 4), -1, dtype=torch.int32):
        got, want = moe.route(ids.cuda(), 3), moe.route(ids, 3)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(got[:3], want[:3], strict=True))
    far = torch.tensor([[2**40, -(2**40), 2**32, 1]])
    assert moe.route(far.cuda(), 3).places.tolist() == [[-1, -1, -1, 0]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("has_base", [False, True])
@pytest.mark.parametrize(
    ("tokens", "per_token", "n"), [(1, 8, 7168), (3, 1, 16), (130, 9, 2048), (1000, 17, 48)]
)
def test_rows_are_added_as_torch_adds_them(
    tokens: int, per_token: int, n: int, has_base: bool, dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(n)
    count = tokens * per_token
    rows = (torch.randn(count, n, generator=draw) * torch.exp2(torch.randn(count, 1, generator=draw) * 4)).to(
        dtype
    )
    rows[0, 0], rows[-1, -1] = torch.nan, torch.inf
    places = torch.randint(-3, count + 3, (tokens, per_token), generator=draw, dtype=torch.int32)
    base = torch.randn(tokens, n, generator=draw).to(dtype) if has_base else None
    wanted = moe.combine(rows, places, base=base)
    room = torch.full((tokens + 2, n + 16), -7.0, dtype=dtype, device="cuda")
    out = room[1:-1, :n]
    given = None if base is None else base.cuda()
    for _ in range(5):
        out.fill_(torch.nan)
        assert moe.combine(rows.cuda(), places.cuda(), base=given, out=out) is out
        assert torch.equal(out.isnan().cpu(), wanted.isnan())
        assert torch.equal(bits(out.nan_to_num(1.0).contiguous()).cpu(), bits(wanted.nan_to_num(1.0)))
    for untouched in room[0], room[-1], room[:, n:]:
        assert (untouched == -7).all()
    made = moe.combine(rows.cuda(), places.cuda(), base=given)
    assert torch.equal(bits(made.nan_to_num(1.0)), bits(out.nan_to_num(1.0).contiguous()))


class Layer:
    """Experts of random weights, and tokens."""

    def __init__(self, experts: int, k: int, inner: int, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        gate, up = (torch.randn(experts, inner, k, generator=draw) / k**0.5 for _ in range(2))
        down = torch.randn(experts, k, inner, generator=draw) / inner**0.5
        self.experts, self.k = experts, k
        both = cute_gemm.interleave_gate_up(gate, up)
        self.gate_up, self.down = cute_gemm.quantize_128x128(both), cute_gemm.quantize_128x128(down)

    def on(self, device: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        (a, b), (c, d) = self.gate_up, self.down
        return (a.to(device), b.to(device)), (c.to(device), d.to(device))

    def tokens(self, count: int) -> Tensor:
        return torch.randn(count, self.k, generator=torch.Generator().manual_seed(count)).bfloat16()


LAYER = Layer(6, 512, 384)


@pytest.mark.parametrize("tokens", [1, 5, 64, 700])
def test_a_layer_is_what_it_is_on_a_cpu(tokens: int) -> None:
    ids, weights = drawn(tokens, 3, 7)
    x = LAYER.tokens(tokens)
    wanted = moe.expert_layer(x, *LAYER.on("cpu"), ids, weights).double()
    found = [moe.expert_layer(x.cuda(), *LAYER.on("cuda"), ids.cuda(), weights.cuda()) for _ in range(20)]
    for other in found[1:]:
        assert torch.equal(bits(other), bits(found[0]))
    got = found[0].cpu().double()
    # Tensor cores keep 14 bits of a sum, 2^-13 of it. So about one value in a thousand between the products
    # becomes the next of e4m3, up to 2^-3 away: 2^-3 / 1000^0.5 = 4e-3. A wrong weight of one choice is 0.1.
    error = (got - wanted).norm() / wanted.norm()
    assert error < 8e-3
    assert torch.equal((got == 0).all(1), ((ids < 0) | (ids > 5)).all(1))


def test_a_captured_layer_reads_choices_anew() -> None:
    ids, weights = (each.cuda() for each in drawn(16, 3, 7))
    x, operands = LAYER.tokens(16).cuda(), LAYER.on("cuda")
    moe.expert_layer(x, *operands, ids, weights)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = moe.expert_layer(x, *operands, ids, weights)
    for seed in range(5):
        new, more = drawn(16, 3, 7, seed)
        ids.copy_(new)
        weights.copy_(more)
        x.copy_(torch.randn_like(x))
        out.fill_(torch.nan)
        graph.replay()
        assert torch.equal(bits(out), bits(moe.expert_layer(x, *operands, ids, weights)))


def test_a_token_does_not_depend_on_its_batch() -> None:
    ids, weights = (each.cuda() for each in drawn(300, 3, 6))
    x, operands = LAYER.tokens(300).cuda(), LAYER.on("cuda")
    with cute_gemm.config(batch_invariant=True):
        whole = moe.expert_layer(x, *operands, ids, weights)
        for some in slice(0, 1), slice(7, 40), slice(100, 300):
            part = moe.expert_layer(x[some], *operands, ids[some], weights[some])
            assert torch.equal(bits(part), bits(whole[some]))


def test_masked_experts_are_those_of_offsets() -> None:
    ids, weights = (each.cuda() for each in drawn(90, 2, 6))
    x, operands = LAYER.tokens(90).cuda(), LAYER.on("cuda")
    found = moe.route(ids, 6, weights)
    lhs = cute_gemm.quantize_1x128(x, rows=found.tokens)
    rows = moe.experts(lhs, *operands, offsets=found.ends, row_weights=found.weights)
    ends = [0, *found.ends.tolist()]
    q, s, w = (
        torch.zeros(6, 96, *each.shape[1:], dtype=each.dtype, device="cuda") for each in (*lhs, weights[:, 0])
    )
    for expert, (first, end) in enumerate(itertools.pairwise(ends)):
        for to, source in (q, lhs[0]), (s, lhs[1]), (w, found.weights):
            to[expert, : end - first] = source[first:end]
    valid = torch.tensor(ends, dtype=torch.int32, device="cuda").diff()
    masked = moe.experts((q, s), *operands, valid_rows=valid, expected_rows=30, row_weights=w)
    for expert, (first, end) in enumerate(itertools.pairwise(ends)):
        assert torch.equal(bits(masked[expert, : end - first]), bits(rows[first:end]))
