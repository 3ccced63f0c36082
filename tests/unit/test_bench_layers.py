"""The suite of expert layers, as far as it goes without a GPU: plan, judges, peers, rows, pictures."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import layer_parts
import pytest
import torch
from bench_rows import ORIGIN, StandInTimer, kernels_interpreted, stand_in_gpu, timed_row
from levels import cases
from stand_ins import card_of, stand_in_card

import cute_gemm
from cute_gemm import cli
from cute_gemm.bench import changes, layer_summary, results, tables
from cute_gemm.bench.peers import around_products, bf16_layer, unfused, unfused_masked, why_no_triton
from cute_gemm.bench.peers.registry import LAYERS, split_available
from cute_gemm.bench.rows import objection
from cute_gemm.bench.run import Bench, fused_kernels_of, kernels_of, run_trials
from cute_gemm.bench.suite import FEW_ROWS, Trial, plan
from cute_gemm.measure import expert_layers, layers, records
from cute_gemm.measure.calls import Call
from cute_gemm.measure.choices import LayerShape, draw_choices
from cute_gemm.measure.errors import CommandError
from cute_gemm.measure.expert_layers import BF16_LIMIT, FP8_LIMIT, LayerCase
from cute_gemm.measure.work import Work
from cute_gemm.ops import epilogued
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import OFFSETS
from cute_gemm.runtime import launcher, selection, warmup
from cute_gemm.runtime.builder import Program

LAYER = records.EXPERT_LAYER
SHAPE = (12, 4, 8, 3, 256, 128)
MODEL = (32, 256, 8, 7168, 2048)
STAGES = ["route", "quantize", "gate_up", "down", "combine"]
TESTS = str(Path(__file__).parent)
TRIAL = Trial("moe", "cold", (LAYER,), SHAPE)


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Torch runs what it would compile; gives what was to be."""
    asked: list[Any] = []

    def compile(function: Any, **options: Any) -> Any:
        asked.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    # It imports compilers, some of which warn.
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    around_products.compiled.cache_clear()
    yield asked
    around_products.compiled.cache_clear()


@pytest.fixture(autouse=True)
def kernels_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs Triton, and a GPU."""
    for name in ("triton_sums", "triton_masked"):
        monkeypatch.setitem(sys.modules, f"cute_gemm.bench.peers.{name}", layer_parts)
        monkeypatch.setattr(f"cute_gemm.bench.peers.{name}", layer_parts, raising=False)
    for peers in unfused, unfused_masked, bf16_layer:
        monkeypatch.setattr(peers, "why_no_triton", lambda: None)
        monkeypatch.setattr(peers, "triton_version", lambda: {"triton": "3.8.0"})


@pytest.fixture
def grouped_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of old torches it has no kernel for a CPU."""

    def by_loop(rows: torch.Tensor, weights: torch.Tensor, offs: torch.Tensor) -> torch.Tensor:
        sizes = torch.diff(offs, prepend=offs.new_zeros(1)).tolist()
        parts = rows.split([*sizes, len(rows) - sum(sizes)])
        made = [part @ weight for part, weight in zip(parts, weights, strict=False)]
        return torch.cat([*made, rows.new_zeros(len(parts[-1]), weights.shape[-1])])

    product, rows = bf16_layer._grouped_product(), torch.ones(16, 16).bfloat16()
    try:
        assert product is not None
        product(rows, rows[None], offs=torch.tensor([16], dtype=torch.int32))
    except NotImplementedError:
        monkeypatch.setattr(bf16_layer, "_grouped_product", lambda: by_loop)


@pytest.fixture
def deep_gemm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package of that name, whose products are ours; NaN where there is nothing."""
    module = ModuleType("deep_gemm")

    def multiply(lhs: Any, rhs: Any, out: torch.Tensor, index: torch.Tensor) -> None:
        assert launcher.tma_can_load(lhs[1])
        cute_gemm.m_grouped_fp8_gemm_nt_contiguous(lhs, rhs, index, out.fill_(torch.nan), validate=True)

    def multiply_masked(lhs: Any, rhs: Any, out: torch.Tensor, counts: torch.Tensor, expected: int) -> None:
        assert launcher.tma_can_load(lhs[1])
        assert 1 <= expected <= lhs[0].shape[1]
        cute_gemm.m_grouped_fp8_gemm_nt_masked(
            lhs, rhs, counts, expected, out.fill_(torch.nan), validate=True
        )

    vars(module)["m_grouped_fp8_gemm_nt_contiguous"] = multiply
    vars(module)["m_grouped_fp8_gemm_nt_masked"] = multiply_masked
    monkeypatch.setitem(sys.modules, "deep_gemm", module)
    return module


def row(
    us: float = 500.0, tokens: int = 4096, peer: str = records.OURS, regime: str = "cold", **more: Any
) -> Any:
    made = timed_row(
        LAYER,
        (tokens, *MODEL),
        us,
        peer,
        regime,
        scale_layout="row_major" if peer == records.OURS else None,
        config="128x256_e4m3_offsets, 128x128_bf16_offsets" if peer == records.OURS else None,
        error=1.05e-3,
    )
    stages = dict.fromkeys(STAGES if peer == records.OURS else records.STAGES, 99.0)
    return made | {"stages": stages} | more


def bench(*peers: Any, timer: Any = None) -> Bench:
    timer = timer or StandInTimer()
    return Bench(
        dict.fromkeys(("cold", "chain"), timer),
        (),
        ORIGIN,
        card_of(132),
        device="cpu",
        say=[].append,
        layers=peers,
    )


# Plans


def test_layers_of_models_are_planned() -> None:
    trials = plan(("moe",), ("cold", "chain", "sustained"))
    assert {each.ops for each in trials} == {(LAYER,)}
    assert {each.kind for each in trials} == {"layer"}
    tokens = {
        regime: {each.shape[0] for each in trials if each.regime == regime} for regime in ("cold", "chain")
    }
    assert min(tokens["cold"]) > FEW_ROWS
    assert {4096, 16384} <= tokens["cold"]
    assert {1, 4, 128} <= tokens["chain"]
    assert max(tokens["chain"]) == FEW_ROWS
    assert {each.shape[1:] for each in trials} == {MODEL, (128, 128, 8, 2048, 768)}
    assert "sustained" not in {each.regime for each in trials}


def test_shapes_choose() -> None:
    few, many = (64, *MODEL), (129, *MODEL)
    trials = plan(("quantize", "moe"), ("cold", "chain"), shapes=[few, (16, 128), many])
    assert [(each.regime, each.shape) for each in trials if each.suite == "moe"] == [
        ("cold", few),
        ("cold", many),
        ("chain", few),
    ]
    assert trials[-1].full_title == "chain 64x32x256x8x7168x2048"
    with pytest.raises(CommandError, match=r"none of the shapes 129x.* expert layers' TxExAxCxKxI"):
        plan(("moe",), ("chain",), shapes=[many])
    for shape, why in [
        ((1, 9, 8, 1, 128, 128), "9 experts, of 8"),
        ((1, 4, 8, 9, 128, 128), "9 choices of 8 experts"),
        ((1, 4, 8, 2, 100, 128), "K = 100"),
        ((1, 4, 8, 2, 128, 100), "K = 100"),
        ((1, 1023, 1023, 2, 128, 128), "1022"),
        ((2**20 + 1, 4, 8, 2, 128, 128), "more than 2097152 choices"),
        ((1, 0, 8, 2, 128, 128), "numbers start at 1"),
    ]:
        with pytest.raises(CommandError, match=why):
            plan(("moe",), ("cold",), shapes=[shape])


# What there is to do


def test_choices_are_drawn_alike_and_are_different_ones() -> None:
    for tokens in 1, 2, 300:
        shape = LayerShape(tokens, *MODEL)
        drawn = draw_choices(shape)
        draw_choices.cache_clear()
        assert draw_choices(shape) == drawn
        assert len(drawn) == tokens
        assert all(len({*chosen}) == 8 and {*chosen} <= {*range(256)} for chosen in drawn)
        assert shape.rows >= 1
    # About an eighth is here.
    assert shape.rows == pytest.approx(300, rel=0.2)


def test_there_is_a_row_where_chance_would_have_none() -> None:
    for all_experts in range(2, 40):
        assert LayerShape(1, 1, all_experts, 1, 128, 128).rows == 1


def test_what_moves_is_counted() -> None:
    case = LayerCase.make(SHAPE, "cpu")
    used = sorted({int(each) for each in case.expert_ids.flatten() if each < 4})
    here = (case.expert_ids < 4).any(1)
    weights = sum(each[expert].nbytes for expert in used for each in (*case.gate_up, *case.down))
    moved = weights + case.x[here].nbytes + case.expert_ids.nbytes + case.weights.nbytes + case.x.nbytes
    work = Work.of(LAYER, SHAPE)
    assert work.bytes_moved == moved
    rows = int((case.expert_ids < 4).sum())
    assert work.flops == 2 * rows * (256 * 256 + 128 * 256)
    # One that nobody has chosen is not read.
    assert LayerShape(1, 4, 4, 1, 256, 128).experts_in_use == 1


def test_a_chain_has_weights_of_its_own_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    mib = 1 << 20
    assert layers.expert_layer_count(40 * mib, 600 * mib) == 7
    assert layers.expert_layer_count(600 * mib, 600 * mib) == 4
    # There is no room for more.
    assert layers.expert_layer_count(mib, 2048 * mib) == 8
    assert layers.expert_layer_count(mib, 20 << 30) == 2
    monkeypatch.setattr(layers, "WEIGHTS_BYTES", 6 * LayerShape(*SHAPE).weight_bytes * 4)
    case = LayerCase.make(SHAPE, "cpu")
    chain = case.chain()
    assert len(chain) == 6
    assert len({each.gate_up[0].data_ptr() for each in chain}) == 6
    assert all(torch.equal(each.down[1], case.down[1]) and each.x is case.x for each in chain)


# Judges


@pytest.mark.parametrize("shape", [SHAPE, (1, 4, 8, 3, 512, 384), (140, 8, 8, 2, 256, 272)])
def test_ours_is_judged_right(shape: tuple[int, ...]) -> None:
    call = LayerCase.make(shape, "cpu").ours(card_of(132))
    call()
    assert 5e-4 < call.error() < FP8_LIMIT / 1.5
    assert list(call.stages) == STAGES


def test_what_was_never_written_is_wrong() -> None:
    case = LayerCase.make(SHAPE, "cpu")
    call = case.ours(card_of(132))
    call.run = lambda: torch.full_like(case.x, torch.nan)
    call()
    with pytest.raises(AssertionError, match="worst tile"):
        call.error()


@pytest.mark.parametrize(
    "what",
    cases(
        ["a choice", "a weight", "a block of K", "an expert", "gate for up"],
        usual=["a block of K", "gate for up"],
    ),
)
def test_a_mistake_is_seen(what: str) -> None:
    """Each in one tile or one expert alone, with as many blocks of K as DeepSeek-V3 has."""
    case = LayerCase.make((4, 2, 2, 2, 7168, 128), "cpu")
    other = LayerCase.make((4, 2, 2, 2, 7168, 128), "cpu")
    if what == "a choice":
        other.expert_ids[1, 0] = -1
    elif what == "a weight":
        other.weights[1] = other.weights[1].flip(0) * 1.2
    elif what == "a block of K":
        other.x[:, 640:768] = 0
    elif what == "an expert":
        other.expert_ids[2] = 1
    else:
        other.gate_up[0].view(torch.uint8).copy_(
            other.gate_up[0].view(torch.uint8).unflatten(1, (-1, 2, 8)).flip(2).flatten(1, 3)
        )
    call = other.ours(card_of(132))
    call()
    with pytest.raises(AssertionError, match="worst tile"):
        case.judge_within(FP8_LIMIT)(call.result)


def test_stages_are_those_of_the_layer() -> None:
    case = LayerCase.make(SHAPE, "cpu")
    call = case.ours(card_of(132))
    call()
    assert torch.equal(call.stages["combine"](), call.result)
    found, (q, s) = call.stages["quantize"]()
    wanted = cute_gemm.moe.route(case.expert_ids, 4, case.weights)
    assert torch.equal(found.tokens, wanted.tokens)
    right_q, right_s = cute_gemm.quantize_1x128(case.x[wanted.tokens[: case.sizes.rows]])
    assert torch.equal(q[: case.sizes.rows].float(), right_q.float())
    assert torch.equal(s[: case.sizes.rows], right_s)


@pytest.mark.parametrize("pdl", [None, False])
def test_all_of_ours_is_launched_as_the_regime_asks(
    pdl: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = cute_gemm.moe.layer.quantize_1x128

    def spy(*given: Any, **named: Any) -> Any:
        seen.append(cute_gemm.settings.current().pdl)
        return real(*given, **named)

    case = LayerCase.make(SHAPE, "cpu", pdl)
    call = case.ours(card_of(132))
    monkeypatch.setattr(cute_gemm.moe.layer, "quantize_1x128", spy)
    monkeypatch.setattr(cute_gemm, "quantize_1x128", spy)
    call()
    call.stages["quantize"]()
    assert seen == [pdl, pdl]


# Kernels


def test_kernels_are_those_that_are_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row names the kernels, and they are compiled before."""
    card = card_of(132)
    fused = fused_kernels_of(TRIAL, card)
    assert LayerCase.make(SHAPE, "cpu").ours(card).config == ", ".join(each.name for each in fused)
    assert [each.is_quantized for each in fused] == [True, False]
    assert {each.layout for each in kernels_of(TRIAL, card)} == {OFFSETS}
    assert not any(isinstance(each, KernelConfig) and each.is_quantized for each in kernels_of(TRIAL, card))
    assert fused_kernels_of(Trial("quantize", "cold", (records.ROWS,), (16, 128)), card) == []
    # The very program that a call makes, of however many rows.
    made = [expert_layers.fused_program(each) for each in fused]
    assert all(isinstance(each, Program) for each in made)
    weighted = cute_gemm.epilogue.row_weights(torch.rand(36)).applied
    assert expert_layers.epilogued.program(fused[1], weighted, [*weighted.operands]) is made[1]
    opened = (cute_gemm.epilogue.swiglu() | cute_gemm.epilogue.quantize_1x128()).applied
    assert expert_layers.epilogued.program(fused[0], opened, []) is made[0]


@pytest.mark.parametrize("shape", [SHAPE, (300, 8, 8, 2, 512, 384)])
def test_problems_are_those_of_the_calls(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real = epilogued.reference.serves

    def serves(call: Any) -> bool:
        seen.append(call)
        return real(call)

    case = LayerCase.make(shape, "cpu")
    call = case.ours(card_of(78))
    stand_in_card(monkeypatch, 78)
    monkeypatch.setattr(epilogued.reference, "serves", serves)
    call()
    names = [selection.select(selection.problem_of(each, -1)).name for each in seen]
    assert call.config == ", ".join(names)
    assert not any(launcher.tma_can_load(each.sa) for each in seen)
    # What is not fused.
    unfused_call = LAYERS["unfused"].calls(case)[0]
    seen.clear()
    unfused_call()
    plain = [selection.problem_of(each, -1) for each in seen]
    assert [selection.select(each) for each in plain] == expert_layers.plain_products(shape, card_of(78))


# Measuring


class FakePeer:
    name = "fake"
    regimes = ("cold", "chain")

    def __init__(self, is_wrong: bool = False) -> None:
        self.is_wrong = is_wrong

    def calls(self, case: LayerCase) -> list[Call]:
        made = torch.zeros_like(case.x) if self.is_wrong else case.truth.bfloat16()
        return [Call("fake", made.clone, case.judge_within(1e-5), stages={"route": lambda: None})]


def test_rows_have_bytes_and_stages() -> None:
    timer = StandInTimer()
    rows = list(bench(FakePeer(), LAYERS["unfused"], timer=timer).measure(TRIAL))
    # Of unfused the faster way.
    assert [(each["peer"], each["us"], each["config"]) for each in rows] == [
        ("cute_gemm", 10.0, rows[0]["config"]),
        ("fake", 11.0, None),
        ("unfused", 12.0, "row-major scales"),
    ]
    # Stages are timed in the same rounds, behind the layers.
    assert [each["stages"] for each in rows] == [
        dict(zip(STAGES, (14.0, 15.0, 16.0, 17.0, 18.0), strict=True)),
        {"route": 19.0},
        dict(zip(records.STAGES, (20.0, 21.0, 22.0, 23.0, 24.0, 25.0), strict=True)),
    ]
    ours = rows[0]
    work = Work.of(LAYER, SHAPE)
    assert [ours[key] for key in records.KEYS[LAYER]] == [*SHAPE]
    assert ours["bytes"] == work.bytes_moved
    assert ours["bytes_us"] == pytest.approx(work.bytes_moved / 4.8e6, abs=1e-3)
    assert ours["limit_us"] == ours["bytes_us"]
    assert ours["gb_per_s"] == round(work.bytes_moved / 10.0 * 1e-3, 1)
    assert ours["scale_layout"] == "row_major"
    assert ours["error_worst_tile"] < FP8_LIMIT
    assert {"layers", "host_us", "copy_share"}.isdisjoint(ours)
    assert all(objection(each) == "" for each in rows)


def test_a_chain_is_of_layers_and_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "LAYER_CALLS", 9)
    monkeypatch.setattr(expert_layers, "expert_layer_count", lambda *_: 4)
    timer = StandInTimer()
    (ours, fake) = bench(FakePeer(), timer=timer).measure(Trial("moe", "chain", (LAYER,), SHAPE))
    # Four layers three times: more than nine.
    assert ours["layers"] == fake["layers"] == 12
    assert ours["us"] == round(10 / 12, 3)
    assert ours["stages"]["route"] == round(12 / 12, 3)
    # Each stage of all layers, as often.
    assert ours["limit_us"] > 0
    chain = timer.order[0]
    assert len({id(call) for call in chain.calls}) == 4
    seen: list[int] = []
    for number, call in enumerate(chain.calls):
        call.stages = {"route": lambda number=number: seen.append(number)}
    chain.stages()["route"]()
    assert seen == [0, 1, 2, 3] * 3


def test_wrong_results_of_ours_have_no_row_and_of_peers_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    (_, found) = bench(FakePeer(is_wrong=True)).measure(TRIAL)
    assert "worst tile" in found["wrong"]
    real = cute_gemm.moe.expert_layer
    monkeypatch.setattr(cute_gemm.moe, "expert_layer", lambda *given, out: real(*given, out=out).mul_(1.2))
    rows = bench(FakePeer()).measure(TRIAL)
    assert next(rows)["peer"] == "fake"
    with pytest.raises(AssertionError, match=r"moe_expert_layer .*worst tile"):
        next(rows)


def test_a_shape_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    real = cute_gemm.moe.expert_layer

    def broken(x: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        if len(x) == 3:
            raise RuntimeError("no such kernel")
        return real(x, *given, **named)

    monkeypatch.setattr(cute_gemm.moe, "expert_layer", broken)
    trials = plan(("moe",), ("cold",), shapes=[(3, *SHAPE[1:]), SHAPE])
    rows, failures = run_trials(bench(), trials, tmp_path)
    assert {each["tokens"] for each in rows} == {12}
    assert failures == ["cold 3x4x8x3x256x128: RuntimeError: no such kernel"]


# Peers


@pytest.mark.usefixtures("grouped_product")
@pytest.mark.parametrize("shape", [SHAPE, (1, 4, 8, 3, 256, 128), (150, 8, 32, 4, 256, 128)])
@pytest.mark.parametrize(
    ("name", "limit"), [(name, FP8_LIMIT) for name in LAYERS if name != "bf16"] + [("bf16", BF16_LIMIT)]
)
def test_peers_compute_the_layer(
    name: str, limit: float, shape: tuple[int, ...], deep_gemm: ModuleType, uncompiled: list[Any]
) -> None:
    case = LayerCase.make(shape, "cpu")
    calls = LAYERS[name].calls(case)
    assert len(calls) == (2 if name == "unfused" else 1)
    for call in calls:
        call()
        assert 0 < call.error() < limit / 1.5
        assert list(call.stages) == [*records.STAGES]
        assert torch.equal(call.stages["combine"](), call.result)
        for stage in call.stages.values():
            stage()
        assert torch.equal(call.run(), call.result)
        # A token that has a row at all.
        wrong = int((case.expert_ids < case.sizes.experts).any(1).nonzero()[0])
        call.result[wrong] *= 1.5
        with pytest.raises(AssertionError, match=r"worst (tile|token)"):
            call.error()
    assert uncompiled == ([around_products.gather, around_products.swiglu] if name == "bf16" else [])


@pytest.mark.usefixtures("grouped_product")
def test_layers_of_one_shape_share_what_is_compiled(uncompiled: list[Any]) -> None:
    for _ in range(3):
        LAYERS["bf16"].calls(LayerCase.make(SHAPE, "cpu"))
    assert len(uncompiled) == 2
    LAYERS["bf16"].calls(LayerCase.make((5, *SHAPE[1:]), "cpu"))
    assert len(uncompiled) == 4


def test_padding_moves_whole_experts() -> None:
    ids = torch.tensor([[0, 3], [3, 9], [0, 1], [9, -1]])
    ids = torch.cat([ids, torch.full((130, 2), 3)])
    found = unfused.padded(cute_gemm.moe.route(ids, 4))
    assert found.experts.tolist() == [0] * 128 + [1] * 128 + [3] * 384
    assert found.tokens[:3].tolist() == [0, 2, -1]
    assert found.tokens[128:130].tolist() == [2, -1]
    assert found.places[:4].tolist() == [[0, 256], [257, -1], [1, 128], [-1, -1]]
    for token, places in enumerate(found.places.tolist()):
        for choice, place in enumerate(places):
            if place >= 0:
                assert found.tokens[place] == token
                assert found.experts[place] == ids[token, choice]
    assert (found.tokens >= 0).sum() == 4 + 260 + 1


_INTERPRET = """
import os, sys
os.environ["TRITON_INTERPRET"] = "1"
sys.path.append(TESTS)
import torch
import layer_parts
from cute_gemm.bench.peers import triton_sums

configs = list(triton_sums._CONFIGS)
for config in configs:
    # With one there is nothing to tune, which needs a GPU.
    triton_sums._add_up.configs = [config]
    for tokens, choices, k in [(1, 1, 16), (5, 3, 272), (9, 8, 2064)]:
        draw = torch.Generator().manual_seed(k)
        places = torch.randint(-1, 2 * tokens, (tokens, choices), generator=draw, dtype=torch.int32)
        places[-1] = -1
        weights = torch.rand(tokens, choices, generator=draw)
        rows = torch.randn(2 * tokens, k, generator=draw).bfloat16()
        # What no place names may be anything.
        rows[[row for row in range(2 * tokens) if row not in places]] = torch.nan
        found, wanted = (each.add_up(rows, places, weights) for each in (triton_sums, layer_parts))
        torch.testing.assert_close(found, wanted, rtol=2**-7, atol=1e-6)
        assert (found[-1] == 0).all()
print(len(configs))
"""


@pytest.mark.thorough
def test_sums_in_triton_are_right() -> None:
    assert kernels_interpreted(_INTERPRET.replace("TESTS", repr(TESTS))) > 1


_INTERPRET_MASKED = """
import os, sys
os.environ["TRITON_INTERPRET"] = "1"
sys.path.append(TESTS)
import torch
import cute_gemm
import layer_parts
from cute_gemm.bench.peers import triton_masked

def require_same(found, wanted, counts):
    is_row = torch.arange(found[1].shape[1]) < counts[:, None]
    assert found[1].stride() == wanted[1].stride()
    torch.testing.assert_close(found[1][is_row], wanted[1][is_row], rtol=1e-5, atol=0)
    bits, right = (each[0].view(torch.uint8) for each in (found, wanted))
    assert found[1][~is_row].isnan().all() and (bits[~is_row] == 0x7F).all(), "what is no row was written"
    # Its interpreter loses the carry where it rounds up to a power of two.
    settled = (right[is_row] & 7) != 0
    one, other = (each[is_row].view(torch.float8_e4m3fn).float()[settled] for each in (bits, right))
    torch.testing.assert_close(one, other, rtol=1 / 8, atol=2**-9)
    assert (one != other).float().mean() < 0.02

triton_masked._matrices = layer_parts.poisoned
layouts, activations = list(triton_masked._LAYOUT_CONFIGS), list(triton_masked._ACTIVATION_CONFIGS)
most = max(len(layouts), len(activations))
for number in range(most):
    # With one there is nothing to tune, which needs a GPU.
    triton_masked._lay_out.configs = [layouts[number % len(layouts)]]
    triton_masked._activate.configs = [activations[number % len(activations)]]
    for tokens, experts, everyone, choices, k, room in [(1, 1, 2, 2, 144, 4), (9, 5, 8, 3, 400, 12)]:
        draw = torch.Generator().manual_seed(k)
        x = torch.randn(tokens, k, generator=draw).bfloat16()
        ids = torch.rand(tokens, everyone, generator=draw).argsort(1)[:, :choices].int().contiguous()
        at = cute_gemm.moe.route(ids, experts)
        given = x, ids, at.places, at.ends, room
        lhs, counts, slots = triton_masked.lay_out(*given)
        wanted, wanted_counts, wanted_slots = layer_parts.lay_out(*given)
        assert torch.equal(counts, wanted_counts) and torch.equal(slots, wanted_slots)
        require_same(lhs, wanted, counts)
        x = torch.randn(experts, room, 2 * k, generator=draw).bfloat16()
        # Of rows that there are not nothing is read.
        x[torch.arange(room) >= counts[:, None]] = torch.nan
        require_same(triton_masked.activate(x, counts, 1), layer_parts.activate(x, counts, 1), counts)
print(most)
"""


@pytest.mark.thorough
def test_rows_of_matrices_in_triton_are_right() -> None:
    assert kernels_interpreted(_INTERPRET_MASKED.replace("TESTS", repr(TESTS))) > 1


def test_peers_say_why_they_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.delattr(torch.nn.functional, "grouped_mm", raising=False)
    monkeypatch.delattr(torch, "_grouped_mm", raising=False)
    peers, notes = split_available(("cublas", *LAYERS), LAYERS)
    assert peers == []
    assert notes == [
        "unfused is not timed: this torch is built without CUDA",
        "unfused_deep_gemm is not timed: the package deep_gemm is not installed",
        "unfused_masked is not timed: the package deep_gemm is not installed",
        "bf16 is not timed: this torch has no grouped product",
    ]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(unfused, "why_no_triton", why_no_triton)
    assert split_available(["unfused"], LAYERS)[1] == [
        "unfused is not timed: the package triton is not installed"
    ]


# Tables, pictures, and what the terminal says


def measured() -> list[Any]:
    """Two shapes cold, and one in a chain."""
    return [
        row(),
        row(560.0, peer=records.UNFUSED, stages={"route": 5.0, "gate_up": 260.5}),
        row(900.0, peer=records.BF16),
        row(1800.0, tokens=16384),
        row(1890.0, tokens=16384, peer=records.UNFUSED),
        row(3000.0, tokens=16384, peer=records.BF16, wrong="beyond its limit"),
        row(20.0, tokens=1, regime="chain", layers=42),
        row(26.0, tokens=1, regime="chain", peer=records.UNFUSED, layers=42),
    ]


def test_tables_have_bytes_and_stages() -> None:
    text = tables.render(measured())
    sections = [part.splitlines() for part in text.split("\n## ")[1:]]
    assert [lines[0] for lines in sections] == [
        "Expert layer: cold L2, one call at a time",
        "Expert layer: chain of layers in a CUDA graph, each with weights of its own",
    ]
    cold = sections[0]
    names = "| tokens | experts | of | choices | K | I |"
    assert cold[4].startswith(
        f"{names} kernel | us | spread | TFLOP/s | limit us | of it | us of its bytes |"
    )
    assert cold[4].endswith("| unfused | bf16 |")
    assert cold[6].startswith("| 4096 | 32 | 256 | 8 | 7168 | 2048 | `128x256_e4m3_offsets, 128x128_bf16_")
    assert "| 560.00 (1.12x) | 900.00 (1.80x) |" in cold[6]
    assert "**wrong** 3000.00" in cold[7]
    at = cold.index("### Expert layer, stage by stage: cold L2, one call at a time")
    assert cold[at + 2] == f"{names} whose | us | route | quantize | gate_up | activate | down | combine |"
    assert cold[at + 4].endswith("| cute_gemm | 500.00 | 99.00 | 99.00 | 99.00 |  | 99.00 | 99.00 |")
    assert cold[at + 5].endswith("| unfused | 560.00 | 5.00 |  | 260.50 |  |  |  |")


def test_the_terminal_is_told_the_speed() -> None:
    assert layer_summary.summary(measured()).splitlines() == [
        "cold moe_expert_layer, speed relative to unfused: geometric mean 1.084, least 1.050"
        " (16384x32x256x8x7168x2048)",
        "cold moe_expert_layer, speed relative to bf16: geometric mean 1.800, least 1.800"
        " (4096x32x256x8x7168x2048)",
        "chain moe_expert_layer, speed relative to unfused: geometric mean 1.300, least 1.300"
        " (1x32x256x8x7168x2048)",
    ]
    assert layer_summary.summary([row()]) == ""


def test_layers_are_compared_from_run_to_run() -> None:
    old = measured()
    new = [each | {"us": each["us"] * 1.1, "median": each["median"] * 1.1} for each in old]
    found = changes.compare(old, new)
    assert {(each.op, each.shape[0], each.regime) for each in found} == {
        (LAYER, 4096, "cold"),
        (LAYER, 16384, "cold"),
        (LAYER, 1, "chain"),
    }
    assert all(each.is_regression(0.02) for each in found)


def test_pictures_show_stages(tmp_path: Any) -> None:
    plots = pytest.importorskip("cute_gemm.bench.plots", reason="needs matplotlib")
    figures = dict(plots._figures(measured()))
    assert list(figures) == [
        f"{kind}_{LAYER}_{regime}" for regime in ("cold", "chain") for kind in ("speedup", "stages")
    ]
    (axes,) = figures[f"stages_{LAYER}_cold"].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        *(f"4096 tokens, {peer}" for peer in ("cute_gemm", "unfused", "bf16")),
        *(f"16384 tokens, {peer}" for peer in ("cute_gemm", "unfused", "bf16")),
    ]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths[:5] == pytest.approx([99 / 500] * 5)
    assert widths[5:7] == pytest.approx([5 / 500, 260.5 / 500])
    assert len(plots.draw(measured(), tmp_path)) == 8


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"stages": {"route": math.nan}}, "stages is not an object of times"),
        ({"stages": {"lunch": 5.0}}, "stages is not an object of times"),
        ({"stages": [5.0]}, "stages is not an object of times"),
        ({"bytes": 0}, "bytes is not a number of bytes"),
        ({"bytes_us": -1.0}, "bytes_us is not a time"),
        ({"inner": 0}, "inner is not a whole number"),
        # They would be drawn.
        ({"tokens": 2**30}, "no device has such a layer: more than 2097152 choices"),
        ({"choices": 257}, "257 choices of 256 experts"),
        ({"experts": 257}, "257 experts, of 256"),
    ],
)
def test_rows_that_are_none_are_refused(more: Any, complaint: str) -> None:
    assert complaint in objection(row() | more)
    assert objection({key: value for key, value in row().items() if key != "tokens"}) == "it lacks tokens"
    assert objection({key: value for key, value in row().items() if key != "stages"}) == ""
    assert objection(row()) == ""


# The command


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Makes everything run on the CPU as if it were a Hopper GPU; gives what was compiled, and how."""
    stand_in_gpu(monkeypatch, 132)
    compiled: list[Any] = []
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(layers, "LAYER_CALLS", 2)
    monkeypatch.setattr(expert_layers, "expert_layer_count", lambda *_: 2)
    monkeypatch.setattr(
        warmup,
        "compile_configs",
        lambda configs, make=None: compiled.extend((each, make) for each in configs),
    )
    return compiled


@pytest.mark.thorough
@pytest.mark.usefixtures("grouped_product")
# Of what an old matplotlib draws with.
@pytest.mark.filterwarnings("ignore:.*deprecated - use:DeprecationWarning")
def test_whole_run(on_gpu: list[Any], tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "--suite", "moe", "--out", str(tmp_path), "--peers", "unfused,copy"]
    shapes = ["--shapes", "12x4x8x3x256x128", "130x4x8x3x256x128"]
    assert cli.main([*arguments, *shapes]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "copy is not timed: it has no part in what is measured" in out
    assert "moe_expert_layer cute_gemm" in out
    assert "(route 13.0, quantize 14.0, gate_up 15.0, down 16.0, combine 17.0)" in out
    assert "cold moe_expert_layer, speed relative to unfused: geometric mean 1.100" in out
    rows = results.read_results(tmp_path)
    assert [(each["regime"], each["tokens"], each["peer"]) for each in rows] == [
        *(("chain", 12, peer) for peer in ("cute_gemm", "unfused")),
        *(("cold", tokens, peer) for tokens in (12, 130) for peer in ("cute_gemm", "unfused")),
    ]
    fused = {each.name for each, make in on_gpu if make is expert_layers.fused_program}
    assert fused == {name for each in rows if each["config"] for name in each["config"].split(", ")} - {
        "row-major scales"
    }
    assert any(make is None for _, make in on_gpu)
    assert "### Expert layer, stage by stage" in (tmp_path / "tables.md").read_text()
    # What it wrote it reads, and goes on with.
    assert cli.main(["bench", "--compare", str(tmp_path), str(tmp_path)]) == 0
    assert cli.main(["bench", "--plot", str(tmp_path)]) == 0
    assert cli.main([*arguments, *shapes, "16x4x8x3x256x128", "--resume", "--regime", "cold"]) == 0
    assert "2 of 3 trials are in" in capsys.readouterr().out
    assert {each["tokens"] for each in results.read_results(tmp_path)} == {12, 16, 130}
