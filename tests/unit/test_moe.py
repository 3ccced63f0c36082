"""Routing and combining: what they give, what they refuse, and as ops of torch's dispatcher."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from levels import cases
from torch import Tensor
from torch import library as torch_library
from torch._dynamo.testing import CompileCounter

import cute_gemm
from cute_gemm import epilogue, moe

CASES = st.tuples(
    st.integers(0, 40), st.integers(1, 9), st.integers(1, 17), st.integers(0, 5), st.integers(0, 2**32)
)


def drawn(tokens: int, per_token: int, experts: int, first: int, seed: int) -> tuple[Tensor, Tensor]:
    """Choices, some of which are of experts elsewhere, and weights."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(-1, first + experts + 3, (tokens, per_token), generator=draw)
    return ids, torch.rand(tokens, per_token, generator=draw)


@given(CASES, st.sampled_from([torch.int32, torch.int64]))
def test_rows_are_sorted_by_expert_and_then_by_token(case: tuple[int, ...], dtype: torch.dtype) -> None:
    tokens, per_token, experts, first, seed = case
    ids, weights = drawn(tokens, per_token, experts, first, seed)
    found = moe.route(ids.to(dtype), experts, weights, first_expert=first)
    wanted = sorted(
        (int(expert), token, choice)
        for token, of_token in enumerate(ids.tolist())
        for choice, expert in enumerate(of_token)
        if first <= expert < first + experts
    )
    assert found.tokens.tolist() == [token for _, token, _ in wanted] + [-1] * (ids.numel() - len(wanted))
    places = torch.full(ids.shape, -1)
    for row, (_, token, choice) in enumerate(wanted):
        places[token, choice] = row
    assert torch.equal(found.places, places.to(torch.int32))
    numbers = [expert - first for expert, _, _ in wanted]
    assert found.ends.tolist() == [sum(number <= each for number in numbers) for each in range(experts)]
    assert found.weights is not None
    assert found.weights[: len(wanted)].tolist() == [float(weights[t, c]) for _, t, c in wanted]
    assert not found.weights[len(wanted) :].any()
    assert {each.dtype for each in found[:3]} == {torch.int32}
    without = moe.route(ids.to(dtype), experts, first_expert=first)
    assert without.weights is None
    assert all(torch.equal(a, b) for a, b in zip(without[:3], found[:3], strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("has_base", [False, True])
def test_sums_are_in_fp32_and_in_order(dtype: torch.dtype, has_base: bool) -> None:
    draw = torch.Generator().manual_seed(1)
    rows = (torch.randn(30, 24, generator=draw) * torch.exp2(torch.randn(30, 1, generator=draw) * 8)).to(
        dtype
    )
    places = torch.randint(-2, 33, (11, 5), generator=draw, dtype=torch.int32)
    base = torch.randn(11, 24, generator=draw).to(dtype) if has_base else None
    total = torch.zeros(11, 24) if base is None else base.float().clone()
    for token in range(11):
        for place in places[token].tolist():
            if 0 <= place < 30:
                total[token] += rows[place].float()
    found = moe.combine(rows, places, base=base)
    assert torch.equal(found, total.to(dtype))
    out = torch.full_like(found, torch.nan)
    assert moe.combine(rows, places, base=base, out=out) is out
    assert torch.equal(out, found)


def test_rows_and_what_is_added_lie_anyhow() -> None:
    rows, base, places = torch.randn(30, 24), torch.randn(11, 24), torch.arange(22).view(11, 2).int()
    want = moe.combine(rows, places, base=base)
    out = torch.full((24, 11), torch.nan).t()
    apart = torch.stack([rows, torch.full_like(rows, torch.nan)], -1)[..., 0]
    assert moe.combine(apart, places, base=base.t().contiguous().t(), out=out) is out
    assert torch.equal(out, want)


def test_nothing_to_sort_or_to_add() -> None:
    for shape in (0, 4), (4, 0):
        found = moe.route(torch.zeros(shape, dtype=torch.int32), 3, torch.zeros(shape))
        assert found.ends.tolist() == [0, 0, 0]
        assert found.places.shape == shape
        assert moe.combine(torch.zeros(0, 16), found.places).tolist() == torch.zeros(shape[0], 16).tolist()


IDS, WEIGHTS = drawn(12, 4, 6, 0, 0)
ROWS, PLACES = torch.randn(48, 16), moe.route(IDS, 6).places
BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "a list": (lambda: moe.route(IDS.tolist(), 6), TypeError, "expert_ids is a builtins.list"),
    "floats": (lambda: moe.route(IDS.float(), 6), TypeError, "torch.int32 or torch.int64"),
    "one dimension": (lambda: moe.route(IDS[0], 6), ValueError, r"wanted \[T, k\]"),
    "turned": (lambda: moe.route(IDS.T, 6), ValueError, "wanted contiguous"),
    "no experts": (lambda: moe.route(IDS, 0), ValueError, "experts is 0; wanted 1 to 1022"),
    "many experts": (lambda: moe.route(IDS, 1023), ValueError, "wanted 1 to 1022"),
    "experts on a device": (lambda: moe.route(IDS, torch.tensor(6)), TypeError, "wanted an int"),
    "a flag": (lambda: moe.route(IDS, True), TypeError, "experts is a builtins.bool"),
    "a negative first": (lambda: moe.route(IDS, 6, first_expert=-1), ValueError, "first_expert is -1"),
    "half weights": (lambda: moe.route(IDS, 6, WEIGHTS.half()), TypeError, r"weights.float\(\)"),
    "few weights": (lambda: moe.route(IDS, 6, WEIGHTS[:3]), ValueError, "wanted that of expert_ids"),
    "weights elsewhere": (lambda: moe.route(IDS, 6, WEIGHTS.to("meta")), ValueError, "device"),
    "a derivative": (
        lambda: moe.route(IDS, 6, WEIGHTS.clone().requires_grad_()),
        ValueError,
        "detach",
    ),
    "rows of one dimension": (lambda: moe.combine(ROWS[0], PLACES), ValueError, r"wanted \[R, N\]"),
    "rows of three": (lambda: moe.combine(ROWS[None], PLACES), ValueError, r"wanted \[R, N\]"),
    "rows of ints": (lambda: moe.combine(ROWS.int(), PLACES), TypeError, "rows has dtype"),
    "long places": (lambda: moe.combine(ROWS, PLACES.long()), TypeError, "torch.int32"),
    "flat places": (lambda: moe.combine(ROWS, PLACES[0]), ValueError, r"wanted \[T, k\]"),
    "turned places": (lambda: moe.combine(ROWS, PLACES.T), ValueError, "wanted contiguous"),
    "another base": (lambda: moe.combine(ROWS, PLACES, base=ROWS[:12].half()), TypeError, "base has dtype"),
    "a short base": (lambda: moe.combine(ROWS, PLACES, base=ROWS[:2]), ValueError, "base has shape"),
    "another out": (lambda: moe.combine(ROWS, PLACES, out=ROWS[:12].half()), TypeError, "out has dtype"),
    "out in rows": (lambda: moe.combine(ROWS, PLACES, out=ROWS[:12]), ValueError, "out"),
    "rows with a derivative": (
        lambda: moe.combine(ROWS.clone().requires_grad_(), PLACES),
        ValueError,
        "detach",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_is_said(name: str) -> None:
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()


def layer(ids: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
    found = moe.route(ids, 6, weights)
    assert found.weights is not None
    return moe.combine(rows * found.weights[:, None], found.places)


def test_both_are_ops() -> None:
    ops = torch.ops.cute_gemm
    torch_library.opcheck(ops.route_tokens.default, (IDS, WEIGHTS, 6, 0))
    torch_library.opcheck(ops.route_tokens.default, (IDS, None, 6, 1))
    torch_library.opcheck(ops.combine_rows.default, (ROWS, PLACES, None))
    torch_library.opcheck(
        ops.combine_rows_out.default, (ROWS, PLACES, torch.zeros(12, 16), ROWS[:12].clone())
    )


def test_schemas_are_documented(request: pytest.FixtureRequest) -> None:
    text = " ".join((request.config.rootpath / "docs" / "torch_compile.md").read_text().split())
    for name in "route_tokens", "combine_rows", "combine_rows_out":
        op = getattr(torch.ops.cute_gemm, name).default
        assert f" {str(op._schema).removeprefix('cute_gemm::')} " in text
        assert torch.Tag.needs_exact_strides in op.tags


def test_a_compiled_layer_is_one_graph_for_any_number_of_tokens() -> None:
    counter = CompileCounter()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    for tokens in (12, 7, 3, 12):
        ids, weights, rows = IDS[:tokens].clone(), WEIGHTS[:tokens].clone(), ROWS[: 4 * tokens].clone()
        assert torch.equal(compiled(ids, weights, rows), layer(ids, weights, rows))
    assert counter.frame_count == 1


def test_a_compiled_call_writes_where_it_is_told() -> None:
    compiled = torch.compile(
        lambda out: moe.combine(ROWS, PLACES, out=out), fullgraph=True, backend="aot_eager"
    )
    out = torch.full((12, 16), torch.nan)
    compiled(out)
    assert torch.equal(out, moe.combine(ROWS, PLACES))


def test_what_is_refused_when_compiled_is_said() -> None:
    compiled = torch.compile(lambda ids: moe.route(ids, 6), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"wanted \[T, k\]"):
        compiled(IDS[0])


class Experts:
    """Experts of random weights, and shared ones."""

    def __init__(self, experts: int, k: int, inner: int, turn: int = 8) -> None:
        draw = torch.Generator().manual_seed(inner)
        self.gate, self.up = (torch.randn(experts, inner, k, generator=draw) / k**0.5 for _ in range(2))
        self.down = torch.randn(experts, k, inner, generator=draw) / inner**0.5
        if turn == 8:
            gate_up = cute_gemm.quantize_128x128(cute_gemm.interleave_gate_up(self.gate, self.up))
        else:
            pairs = (cute_gemm.quantize_128x128(each) for each in (self.gate, self.up))
            gate_up = cute_gemm.interleave_gate_up(*pairs, turn=turn)
        self.operands = gate_up, cute_gemm.quantize_128x128(self.down)

    def answer(self, expert: int, x: Tensor) -> Tensor:
        """What an expert makes of a token, not quantised."""
        x, gate, up, down = (
            each.double() for each in (x, self.gate[expert], self.up[expert], self.down[expert])
        )
        return down @ (torch.nn.functional.silu(gate @ x) * (up @ x))


TOKENS = torch.randn(12, 256, generator=torch.Generator().manual_seed(3)).bfloat16()


@pytest.mark.parametrize("turn", [8, 128])
def test_a_layer_is_the_weighted_sum_of_its_experts(turn: int) -> None:
    some = Experts(6, 256, 128, turn)
    found = moe.expert_layer(TOKENS, *some.operands, IDS, WEIGHTS, activation=epilogue.swiglu(turn=turn))
    wanted = torch.zeros(12, 256, dtype=torch.float64)
    for token, (ids, weights) in enumerate(zip(IDS.tolist(), WEIGHTS.tolist(), strict=True)):
        for expert, weight in zip(ids, weights, strict=True):
            if 0 <= expert < 6:
                wanted[token] += weight * some.answer(expert, TOKENS[token])
    # e4m3 keeps four bits, twice: 3.6 % of each product's terms, and these are of random sign.
    assert (found.double() - wanted).norm() < 0.08 * wanted.norm()
    assert (found == 0).all(1).tolist() == ((IDS < 0) | (IDS > 5)).all(1).tolist()


def test_experts_may_be_spread_over_devices() -> None:
    some = Experts(6, 256, 128)
    whole = moe.expert_layer(TOKENS, *some.operands, IDS, WEIGHTS).double()
    parts = torch.zeros_like(whole)
    for first, last in (0, 2), (2, 6):
        own = [tuple(each[first:last] for each in pair) for pair in some.operands]
        parts += moe.expert_layer(TOKENS, *own, IDS, WEIGHTS, first_expert=first).double()
    assert (parts - whole).norm() < 5e-3 * whole.norm()


def test_a_shared_expert_is_added_as_it_is() -> None:
    some, shared = Experts(6, 256, 128), Experts(1, 256, 384)
    own = [tuple(each[0] for each in pair) for pair in shared.operands]
    alone = moe.mlp(TOKENS, *own)
    wanted = torch.stack([shared.answer(0, x) for x in TOKENS])
    assert (alone.double() - wanted).norm() < 0.08 * wanted.norm()
    nobody = torch.full_like(IDS, -1)
    assert torch.equal(moe.expert_layer(TOKENS, *some.operands, nobody, WEIGHTS, shared=tuple(own)), alone)
    both = moe.expert_layer(TOKENS, *some.operands, IDS, WEIGHTS, shared=tuple(own)).double()
    apart = moe.expert_layer(TOKENS, *some.operands, IDS, WEIGHTS).double() + alone.double()
    assert (both - apart).norm() < 5e-3 * apart.norm()


def test_a_token_is_the_same_in_any_batch() -> None:
    some = Experts(6, 256, 128)
    whole = moe.expert_layer(TOKENS, *some.operands, IDS, WEIGHTS)
    for rows in slice(0, 1), slice(3, 9):
        assert torch.equal(
            moe.expert_layer(TOKENS[rows], *some.operands, IDS[rows], WEIGHTS[rows]), whole[rows]
        )


def test_experts_of_masked_groups_are_those_of_offsets() -> None:
    some, found = Experts(6, 256, 128), moe.route(IDS, 6, WEIGHTS)
    assert found.weights is not None
    q, s = cute_gemm.quantize_1x128(TOKENS, rows=found.tokens)
    rows = moe.experts((q, s), *some.operands, offsets=found.ends, row_weights=found.weights)
    ends = [0, *found.ends.tolist()]
    places = torch.full((6, 16), -1, dtype=torch.int32)
    weights = torch.zeros(6, 16)
    for expert, (first, end) in enumerate(itertools.pairwise(ends)):
        places[expert, : end - first] = found.tokens[first:end]
        weights[expert, : end - first] = found.weights[first:end]
    x = TOKENS[places.clamp(min=0).long()]
    masked = moe.experts(
        cute_gemm.quantize_1x128(x),
        *some.operands,
        valid_rows=torch.tensor(ends, dtype=torch.int32).diff(),
        expected_rows=8,
        row_weights=weights,
    )
    for expert, (first, end) in enumerate(itertools.pairwise(ends)):
        assert torch.equal(masked[expert, : end - first], rows[first:end])
    spread = torch.full((6 * 128,), -1)
    for expert, (first, end) in enumerate(itertools.pairwise(ends)):
        spread[128 * expert : 128 * expert + end - first] = torch.arange(first, end)
    aligned = cute_gemm.quantize_1x128(TOKENS[found.tokens[spread.clamp(min=0)].clamp(min=0).long()])
    weights = found.weights[spread.clamp(min=0)]
    is_row = spread >= 0
    wanted = rows[spread[is_row]]
    index = torch.where(is_row, torch.arange(6).repeat_interleave(128), -1).to(torch.int32)
    got = moe.experts(aligned, *some.operands, group_index=index, row_weights=weights)
    assert torch.equal(got[is_row], wanted)
    sizes = torch.tensor(ends, dtype=torch.int32).diff()
    behind = 128 * torch.arange(6, dtype=torch.int32) + sizes
    got = moe.experts(aligned, *some.operands, offsets=behind, alignment=128, row_weights=weights)
    assert torch.equal(got[is_row], wanted)
    with pytest.raises(TypeError, match="alignment goes with offsets"):
        moe.experts(aligned, *some.operands, group_index=index, alignment=128)
    with pytest.raises(TypeError, match="one of offsets, group_index and valid_rows"):
        moe.experts((q, s), *some.operands)
    with pytest.raises(TypeError, match="expected_rows goes with"):
        moe.experts((q, s), *some.operands, offsets=found.ends, expected_rows=3)


def test_no_tokens() -> None:
    some = Experts(6, 256, 128)
    assert moe.expert_layer(TOKENS[:0], *some.operands, IDS[:0], WEIGHTS[:0]).shape == (0, 256)


SOME = Experts(6, 256, 128)
BAD_LAYERS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "choices of some tokens": (
        {"expert_ids": IDS[:3], "weights": WEIGHTS[:3]},
        ValueError,
        r"x has shape \(12, 256\); wanted \[3, K\], a row for each token of expert_ids",
    ),
    "some tokens": ({"x": TOKENS[:2]}, ValueError, r"x has shape \(2, 256\); wanted \[12, K\]"),
    "tokens of sequences": ({"x": TOKENS[None]}, ValueError, r"x has shape \(1, 12, 256\); wanted \[12, K\]"),
    "choices of one dimension": ({"expert_ids": IDS[:, 0]}, ValueError, r"expert_ids has .*wanted \[T, k\]"),
    "tokens in a list": ({"x": TOKENS.tolist()}, TypeError, "x is a builtins.list"),
    "weights without scales": ({"gate_up": SOME.operands[0][0]}, TypeError, "gate_up is .*wanted a pair of"),
    "weights of one expert": (
        {"gate_up": tuple(each[0] for each in SOME.operands[0])},
        ValueError,
        r"gate_up has shape \(256, 256\); wanted \[E, 2 I, K\]",
    ),
    "no activation": (
        {"activation": None},
        TypeError,
        "activation is None; wanted an epilogue that makes one",
    ),
    "an activation of all": ({"activation": epilogue.silu()}, TypeError, "activation makes as many columns"),
    "an activation that quantises": (
        {"activation": epilogue.swiglu() | epilogue.quantize_1x128()},
        TypeError,
        "activation quantises; wanted",
    ),
}


@pytest.mark.parametrize("name", BAD_LAYERS)
def test_a_layer_says_what_does_not_fit(name: str) -> None:
    changed, error, message = BAD_LAYERS[name]
    gate_up, down = SOME.operands
    given = {"x": TOKENS, "gate_up": gate_up, "down": down, "expert_ids": IDS, "weights": WEIGHTS}
    with pytest.raises(error, match=message):
        moe.expert_layer(**given | changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", [None, epilogue.relu()])
def test_a_dense_layer_wants_an_activation_of_a_gate(activation: Any) -> None:
    gate_up, down = (tuple(each[0] for each in pair) for pair in SOME.operands)
    with pytest.raises(TypeError, match=r"activation .*; wanted an epilogue that makes one column of two"):
        moe.mlp(TOKENS, gate_up, down, activation=activation)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_compiled_caller_of_a_layer_gets_the_same_bits(dtype: torch.dtype) -> None:
    def caller(x: Tensor) -> Tensor:
        shared = tuple(tuple(each[0] for each in pair) for pair in SOME.operands)
        return moe.expert_layer(x, *SOME.operands, IDS, WEIGHTS, shared=shared) * 2  # type: ignore[arg-type]

    torch._dynamo.reset()
    x = TOKENS.to(dtype)
    assert torch.equal(torch.compile(caller, backend="eager", fullgraph=True)(x), caller(x))


@contextlib.contextmanager
def of_doubles() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


STATES: dict[str, Callable[[], Any]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default dtype": of_doubles,
    "default device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "deterministic": deterministic,
}


@pytest.mark.parametrize("state", cases(STATES, usual=[*STATES][::2]))
def test_what_is_set_around_a_layer_changes_nothing(state: str) -> None:
    shared = tuple(tuple(each[0] for each in pair) for pair in SOME.operands)

    def call() -> Tensor:
        return moe.expert_layer(TOKENS, *SOME.operands, IDS, WEIGHTS, shared=shared)  # type: ignore[arg-type]

    want = call()
    with STATES[state]():
        found = call()
    assert torch.equal(found, want)
