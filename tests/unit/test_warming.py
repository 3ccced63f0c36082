"""Which kernels are made before calls need them, and by whom."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_ins import card_of, stand_in, stand_in_card
from test_tune_models import DEEPSEEK, LLAMA

import cute_gemm
from cute_gemm import cli, epilogue, moe
from cute_gemm.plan import candidates, choice, tuned
from cute_gemm.plan.card import CARDS
from cute_gemm.plan.choice import reach, rows_of_calls, warmup_command
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import DENSE, K_GROUPED, LAYOUTS, MASKED, OFFSETS
from cute_gemm.plan.models import Model, model_of
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.plan.recipe import FP8_1D1D
from cute_gemm.plan.tuned.table import Table
from cute_gemm.runtime import builder, compiler, hardware, packs, quantizers, warmup
from cute_gemm.warming import kernels, work
from cute_gemm.warming.kernels import Fused, Kernel, Written
from cute_gemm.warming.needs import Needs, needs

H200 = CARDS["NVIDIA H200"]
SHAPE = 256, 512


def by_every_m(problem: GemmProblem, ms: Iterable[int]) -> dict[KernelConfig, tuple[int, int]]:
    """What is chosen, and the least and the most M."""
    found: dict[KernelConfig, tuple[int, int]] = {}
    for m in ms:
        for tma_scales in (False, True):
            config = choice.choose(replace(problem, m=m), tma_scales)
            found[config] = found.get(config, (m, m))[0], m
    return found


def problems(seed: int, count: int) -> Iterator[GemmProblem]:
    draw = random.Random(seed)
    for _ in range(count):
        layout, card = draw.choice([*LAYOUTS.values()]), draw.choice([*CARDS.values()])
        groups = draw.choice([2, 6, 32, 256]) if layout.is_grouped else 1
        n, k = 8 * draw.randint(1, 3000), 16 * draw.randint(1, 900)
        invariant = draw.random() < 0.2
        yield GemmProblem(
            1, n, k, layout=layout, groups=groups, card=card, num_sms=card.sms, batch_invariant=invariant
        )


@pytest.mark.parametrize("most", [1, 7, 300, 1500])
def test_nothing_that_is_chosen_for_any_m_is_missed(most: int) -> None:
    for problem in problems(most, 8):
        ms = rows_of_calls(problem, most)
        found = {each.config: (each.least_m, each.most_m) for each in reach(problem, ms)}
        assert found == by_every_m(problem, ms), problem


@pytest.mark.parametrize("layout", [DENSE, MASKED, OFFSETS], ids=lambda layout: layout.name)
def test_what_was_measured_is_made(monkeypatch: pytest.MonkeyPatch, layout: Any) -> None:
    """It holds for single M, and for those between two that agree."""
    first, *_, last = (each for each in candidates.all_configs(layout=layout) if each.block_m in (64, 128))
    problem = GemmProblem(1, *SHAPE, layout=layout, groups=4 if layout.is_grouped else 1)
    best = {each.config for each in reach(problem, rows_of_calls(problem, 2000))}
    odd = next(
        each for each in candidates.all_configs(layout=layout) if each.block_m >= 64 and each not in best
    )
    table = Table(
        tuned.table.Entry.of(replace(problem, m=m), config)
        for m, config in ((404, odd), (1000, first), (1200, first), (1600, last))
    )
    monkeypatch.setattr(tuned, "choice", table.choice)
    monkeypatch.setattr(tuned, "tables", lambda name: (table,))
    ms = rows_of_calls(problem, 2000)
    assert {each.config for each in reach(problem, ms)} == by_every_m(problem, ms).keys()


def test_commands_name_what_a_choice_depends_on() -> None:
    problem = GemmProblem(96, 16, 144, "float32", 100, MASKED, 3, batch_invariant=True)
    assert warmup_command(problem) == (
        "cute-gemm warmup --nk 3,16,144 --max-m 32 --op masked --out-dtype float32 --num-sms 100 "
        "--batch-invariant"
    )
    assert warmup_command(GemmProblem(96, 16, 144)) == "cute-gemm warmup --nk 16,144 --max-m 96"
    of_weights = GemmProblem(
        48, 144, 8192, "float32", layout=K_GROUPED, groups=4, recipe=FP8_1D1D, accumulate=True
    )
    assert warmup_command(of_weights) == (
        "cute-gemm warmup --nk 4,48,144 --max-m 8192 --op gradients --out-dtype float32"
    )
    one = replace(of_weights, layout=DENSE, groups=1, out_dtype="bfloat16", accumulate=False)
    assert warmup_command(one) == "cute-gemm warmup --nk 48,144 --max-m 8192 --op gradients"


@pytest.mark.parametrize("groups", [None, 8])
@pytest.mark.parametrize("out_dtype", ["bfloat16", "float32"])
def test_gradients_of_weights_over_any_number_of_tokens(groups: int | None, out_dtype: str) -> None:
    card, layout = card_of(132), K_GROUPED if groups else DENSE
    shape = (4096, 7168) if groups is None else (groups, 4096, 7168)
    calls = work.calls_of(
        max_m=8192, ops=["gradients"], cards=(card,), out_dtype=out_dtype, dtype="bfloat16", epilogue=None
    )
    found = needs(work.layers_of_shapes([shape]), calls)
    wanted = set()
    for k in [16, *range(96, 8193, 16 * 13), 8192]:
        for stored, accumulate in [(out_dtype, False), ("float32", False), ("float32", True)]:
            problem = GemmProblem(
                4096, 7168, k, stored, card.sms, layout, groups or 1, recipe=FP8_1D1D, accumulate=accumulate,
                card=card,
            )  # fmt: skip
            wanted.add(choice.choose(problem, True))
    products = {each for each in found if isinstance(each, KernelConfig)}
    assert products == wanted
    assert len(wanted) >= (2 if groups else 4)
    names = {each.name for each in found if each not in products}
    assert names == {
        "quantize_both_ways_bf16" + ("_offsets" if groups else ""),
        "quantize_128x128_bf16" + ("_3d" if groups else ""),
        "quantize_128x128_bf16" + ("_3d" if groups else "") + "_transposed",
    }
    assert any("N = 4096, K = 7168, over 16 to " in use for uses in found.values() for use in uses)


def of_model(config: dict[str, Any], max_m: int, *ops: str, **more: Any) -> tuple[Model, Needs]:
    model = model_of(config)
    given: dict[str, Any] = {
        **{"out_dtype": "bfloat16", "dtype": "bfloat16", "epilogue": None, "cards": (H200,)},
        **{"power_of_two_scales": False, "has_quantizers": True},
        "experts_per_token": model.experts_per_token,
        **more,
    }
    return model, needs(model.layers, work.calls_of(max_m=max_m, ops=ops or None, **given))


def test_products_of_a_model() -> None:
    model, found = of_model(DEEPSEEK | {"num_experts_per_tok": 8}, 300)
    draw = random.Random(0)
    for layer in model.layers:
        for layout in LAYOUTS.values():
            if layout.is_grouped != (layer.groups is not None):
                continue
            groups = layer.groups or 1
            most = 8 * 300 if layout.is_grouped and not layout.has_matrix_per_group else 300
            m = draw.randint(1, most) * (groups if layout.has_matrix_per_group else 1)
            problem = GemmProblem(m, layer.n, layer.k, layout=layout, groups=groups, card=H200)
            assert {choice.choose(problem, tma) for tma in (False, True)} <= found.keys()
    assert any("experts.down_proj" in use for uses in found.values() for use in uses)
    _, dense = of_model(DEEPSEEK, 300, "dense", has_quantizers=False)
    assert {type(each) for each in dense} == {KernelConfig}
    assert {each.layout for each in dense} == {DENSE}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What kernels are made of that calls want on a GPU; there are none, and torch computes after all."""
    found: list[Any] = []
    monkeypatch.setattr(quantizers, "is_on_hopper", lambda x: True)
    monkeypatch.setattr(quantizers, "known", lambda key: None)
    monkeypatch.setattr(quantizers, "launch", lambda key, config, *_: found.append(config))
    return found


def test_quantisers_of_a_model(asked: list[Any]) -> None:
    _, found = of_model(LLAMA | {"hidden_size": 512, "intermediate_size": 1024, "head_dim": 64}, 2048)
    for m in (1, 2048):
        for x in (torch.zeros(m, 512, dtype=torch.bfloat16), torch.zeros(1, m, 512, dtype=torch.bfloat16)):
            cute_gemm.quantize_1x128(x, m_major_scales=True)
            cute_gemm.rms_norm_quantize_1x128(x, x[0, 0] if x.dim() == 3 else x[0])
            weight = torch.ones(512, dtype=torch.bfloat16)
            cute_gemm.rms_norm_quantize_1x128(x, weight, residual=torch.zeros_like(x))
        cute_gemm.swiglu_quantize_1x128(torch.zeros(m, 2048, dtype=torch.bfloat16))
    cute_gemm.quantize_128x128(torch.zeros(512, 512, dtype=torch.bfloat16))
    assert len(set(asked)) > 8
    assert set(asked) <= found.keys()


def test_layers_of_experts(monkeypatch: pytest.MonkeyPatch, asked: list[Any]) -> None:
    config = DEEPSEEK | {"hidden_size": 256, "moe_intermediate_size": 128, "n_routed_experts": 4}
    _, found = of_model(config | {"num_experts_per_tok": 2}, 64, "moe", cards=(card_of(132),))
    with stand_in(monkeypatch) as device:
        device.choose = choice.choose
        monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
        monkeypatch.setattr("cute_gemm.reference.serves", lambda call: False)
        for tokens in (1, 40, 64):
            run_experts(tokens)
    products = {
        Fused(each.config, where_of(each)) for each in device.made if isinstance(each, builder.Program)
    }
    plain = {each for each in device.made if isinstance(each, KernelConfig)}
    assert len({each.epilogue for each in products}) == 2
    assert plain
    assert products | plain | set(asked) <= found.keys()


def run_experts(tokens: int) -> None:
    def weight(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
        scales = torch.ones(*shape[:-2], -(-shape[-2] // 128), -(-shape[-1] // 128))
        return torch.zeros(shape).to(torch.float8_e4m3fn), scales

    ids = torch.zeros(tokens, 2, dtype=torch.int32)
    x = torch.zeros(tokens, 256, dtype=torch.bfloat16)
    shared = weight(256, 256), weight(256, 128)
    experts = weight(4, 256, 256), weight(4, 256, 128)
    moe.expert_layer(x, *experts, ids, torch.ones(tokens, 2), shared=shared)


def where_of(program: builder.Program) -> str:
    name = "swiglu_and_quantize" if program.config.is_quantized else "row_weights"
    return f"cute_gemm.warming.kernels:{name}"


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> set[str]:
    """Names of kernels on disk. Other processes are this one, and make kernels without compiling."""
    names: set[str] = set()

    def in_processes(function: Any, items: Sequence[Kernel], most: int | None = None) -> Iterator[Kernel]:
        assert function is kernels.made_elsewhere
        for each in items:
            names.add(each.name)
            yield each

    monkeypatch.setenv("CUTE_GEMM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernels, "is_kept", lambda kernel: kernel.name in names)
    monkeypatch.setattr(kernels, "load", lambda kernel: LOADED.append(kernel.name))
    monkeypatch.setattr(warmup, "in_processes", in_processes)
    LOADED.clear()
    return names


LOADED: list[str] = []
"""Into this process."""


def test_what_is_not_there_is_made_and_all_is_loaded(there: set[str]) -> None:
    there.add("quantize_128x128_bf16")
    made = cute_gemm.warmup([SHAPE], max_m=64, card=H200.name)
    assert made.found == ("quantize_128x128_bf16",)
    assert set(made.made) == there - set(made.found)
    assert sorted(LOADED) == sorted(there)
    again = cute_gemm.warmup([SHAPE], max_m=64, card=H200.name)
    assert (again.made, set(again.found)) == ((), there)
    with cute_gemm.config(batch_invariant=True):
        fewer = cute_gemm.warmup([SHAPE], max_m=64, card=H200.name, quantizers=False)
    assert set(fewer.made) - there == set()


def test_a_model_by_its_file(there: set[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    by_file = cute_gemm.warmup(model=tmp_path, max_m=8, card=H200.name)
    assert set(cute_gemm.warmup(model=LLAMA, max_m=8, card=H200.name).found) == set(by_file.made)


def test_an_epilogue_is_made_here(there: set[str]) -> None:
    bias = epilogue.bias(torch.empty(0))
    made = cute_gemm.warmup([SHAPE], max_m=8, card=H200.name, epilogue=bias, quantizers=False)
    assert made.made
    assert list(made.made) == LOADED
    assert there == set()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, RuntimeError, "name the card that kernels are chosen for: NVIDIA H100"),
        ({"card": "H200"}, ValueError, "no card is known by the name 'H200'"),
        ({"nk": [(1, 2, 3, 4)]}, ValueError, r"nk has \(1, 2, 3, 4\); want \(N, K\)"),
        ({"nk": [(7, 16)]}, ValueError, "N = 7 is not a positive multiple of 8"),
        ({"max_m": 0}, ValueError, "max_m is 0; want 1 to 65536"),
        ({"ops": ["sparse"]}, ValueError, "ops has 'sparse'; want some of dense"),
        ({"out_dtype": torch.float16}, ValueError, "out_dtype is float16; want bfloat16 or float32"),
        ({"dtype": "bfloat16"}, TypeError, "dtype is 'bfloat16'; want a torch.dtype"),
        ({"model": {}}, ValueError, "it lacks hidden_act"),
        ({"model": LLAMA, "epilogue": epilogue.silu()}, ValueError, "epilogue goes with nk"),
    ],
)
def test_wrong_arguments(
    there: set[str],
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr(hardware, "is_hopper", lambda *_: False)
    usual: dict[str, Any] = (
        {"nk": [SHAPE], "max_m": 8, "card": H200.name} if given else {"nk": [SHAPE], "max_m": 8}
    )
    with pytest.raises(error, match=message):
        cute_gemm.warmup(**usual | given)


def test_more_multiprocessors_than_there_are(there: set[str]) -> None:
    with (
        cute_gemm.config(num_sms=133),
        pytest.raises(ValueError, match="num_sms is 133, but NVIDIA H200 has 132"),
    ):
        cute_gemm.warmup([SHAPE], max_m=8, card=H200.name)


def test_the_current_card(there: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "is_hopper", lambda *_: True)
    stand_in_card(monkeypatch, 132)
    assert cute_gemm.warmup([SHAPE], max_m=8).made
    assert work.cards_named(None) == (card_of(132),)


# The command


@pytest.fixture
def run(there: set[str], capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        status = cli.main(["warmup", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


def test_the_command(run: Any, there: set[str], tmp_path: Path) -> None:
    given = "--nk", "256,512", "--max-m", 64, "--card", H200.name
    there.add("quantize_128x128_bf16")
    status, out, err = run(*given, "--dry-run")
    assert (status, err) == (0, "")
    *lines, last = out.splitlines()
    assert "quantize_128x128_bf16: on disk: weights of N = 256, K = 512" in lines
    assert any(
        line.startswith("8x64") and "to be made: dense, N = 256, K = 512, M = 1 to 8" in line
        for line in lines
    )
    assert last.startswith(f"{len(lines)} kernels, 1 of them on disk; the others take about ")
    assert len(there) == 1
    status, out, _ = run(*given)
    assert status == 0
    assert f"{len(lines) - 1} kernels made in " in out
    assert f"1 were there: {tmp_path}" in out
    assert len(there) == len(lines)
    assert f"0 kernels made in 0 s, {len(lines)} were there" in run(*given)[1]


def test_the_command_for_models_and_names(run: Any, there: set[str], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(DEEPSEEK | {"num_nextn_predict_layers": 1}))
    status, out, err = run(
        "--model", path, "--max-m", 8, "--card", H200.name, "--op", "moe", "masked", "--dry-run"
    )
    assert status == 0
    assert "left out: layers that predict more tokens" in err
    assert "swiglu_and_quantize" in out
    assert "masked, experts.down_proj (256 x N = 7168, K = 2048)" in out
    file = tmp_path / "file.py"
    file.write_text("from cute_gemm.plan.config import KernelConfig\n\nmade = KernelConfig(64, 64, 4)\n")
    run("--kernel", "route_int32_weights_8", f"{file}:made")
    assert there == {"route_int32_weights_8", Written(f"{file}:made").name}


def test_the_command_beside_packs(run: Any, there: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What they have is there, also where nothing is kept on disk."""
    there.add("quantize_128x128_bf16")
    monkeypatch.setattr(packs, "are_used", lambda: True)
    monkeypatch.setenv("CUTE_GEMM_CACHE_DIR", "")
    given = "--kernel", "quantize_128x128_bf16"
    assert "quantize_128x128_bf16: in a pack or on disk: asked for" in run(*given, "--dry-run")[1]
    assert run(*given) == (0, "0 kernels made in 0 s, 1 were there\n", "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "want --model, --nk or --kernel"),
        (["--nk", "256,512"], "name the card"),
        (["--nk", "7,16", "--card", H200.name], "N = 7 is not"),
        (["--kernel", "7x7"], "no candidate is named 7x7"),
        (["--model", "none.json", "--card", H200.name], "none.json: No such file"),
        (["--kernel", "quantize_128x128_bf16", "--epilogue", "a:b"], "--epilogue goes with --nk alone"),
        (
            ["--nk", "8,16", "--card", H200.name, "--epilogue", "os:path"],
            "os:path is of type module; want an Ep",
        ),
        (
            ["--nk", "8,16", "--card", H200.name, "--op", "moe", "--no-quantizers"],
            "no such call takes a kernel",
        ),
        (["--nk", "8,16", "--card", H200.name, "--max-m", "65537"], "max_m is 65537; want 1 to 65536"),
        (["--nk", "8,16", "--card", H200.name, "--num-sms", "133"], "num_sms is 133, but"),
    ],
)
def test_what_the_command_refuses(
    run: Any, monkeypatch: pytest.MonkeyPatch, given: list[str], message: str
) -> None:
    monkeypatch.setattr(hardware, "is_hopper", lambda *_: False)
    status, _, err = run(*given)
    assert status == 1
    assert message in err
    assert err.count("\n") == 1


def test_kernels_that_are_not_kept_are_an_error(
    run: Any, there: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "is_kept", lambda kernel: False)
    assert "1 kernels were made and not kept in " in run("--kernel", "quantize_128x128_bf16")[2]
    monkeypatch.setenv("CUTE_GEMM_CACHE_DIR", "")
    assert "kernels are kept nowhere" in run("--kernel", "quantize_128x128_bf16")[2]


def test_shapes_that_do_not_parse(run: Any) -> None:
    for wrong in ("8", "8,16,32,64", "8x16", "0,16", "9" * 30 + ",16"):
        with pytest.raises(SystemExit) as left:
            run("--nk", wrong)
        assert left.value.code == 2


def test_what_is_made_is_on_disk_whatever_packs_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack that the environment names would else have the kernel, and nothing were compiled."""
    seen = []
    monkeypatch.setattr(kernels, "load", lambda kernel: seen.append((kernel, compiler._noted is not None)))
    logger = logging.getLogger("cute_gemm")
    monkeypatch.setattr(logger, "handlers", [])
    made = KernelConfig(64, 64, 4)
    assert kernels.made_elsewhere(made) is made
    assert seen == [(made, True)]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (":smile:", "cannot import :smile"),
        ("os:getpid", "os:getpid is of type"),
        ("nowhere.py:kernel", "cannot import nowhere.py"),
    ],
)
def test_what_is_no_program_is_named_before_anything_is_looked_for(
    run: Callable[..., tuple[int, str, str]], where: str, said: str
) -> None:
    status, out, err = run("--kernel", where, "--card", "NVIDIA H200", "--dry-run")
    assert (status, out) == (1, "")
    assert err.startswith(f"cute-gemm: {said}")
