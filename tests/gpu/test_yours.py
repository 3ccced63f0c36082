"""The tutorials of examples/yours on a GPU: right results, the same bits each time, in other shapes, too."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import wait
from tensors import bits
from torch import Tensor
from tutorials import FOLDER, NAMES, load

import cute_gemm
from cute_gemm import epilogue, runtime
from cute_gemm.plan.config import KernelConfig
from cute_gemm.reference import dequantized_product
from cute_gemm.testing import make_inputs, poisoned, worst_tile_error

# Ragged tiles and k-blocks; one k-block; runs of k-blocks with and without a rest; more tiles than CTAs.
SHAPES = [(328, 464, 528), (200, 208, 128), (72, 2112, 1040), (1096, 4096, 2304)]
TIMES = 3


def repeated(launch: Any, m: int, n: int) -> Tensor:
    """What a launch writes, the same every time, and nowhere else."""
    found = []
    for _ in range(TIMES):
        out, check = poisoned(m, n, torch.bfloat16, "cuda")
        launch(out)
        wait()
        check()
        found.append(bits(out))
    assert all(torch.equal(each, found[0]) for each in found)
    return out


@pytest.mark.parametrize("name", NAMES)
def test_a_tutorial_runs(name: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    ran = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), "--out", str(rows)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "no Hopper GPU here" not in ran.stdout
    written = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["rung"] for row in written] == [trial.title for trial in load(name).TUTORIAL.trials]
    for row in written:
        assert row["tutorial"] == name
        assert row["us"] > 0
        assert f"{row['us']:.2f} us" in ran.stdout


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("name", ["01_epilogue", "03_mainloop", "04_scaling"])
def test_other_shapes(name: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    tutorial = load(name)
    monkeypatch.setattr(tutorial, "SHAPE", shape)
    inputs = tutorial.make(torch.device("cuda"))
    for trial in tutorial.TUTORIAL.trials:
        out = repeated(lambda out, trial=trial: trial.run(trial.program, inputs, out), *shape[:2])
        trial.judge(inputs, out)


@pytest.mark.parametrize(
    "sizes",
    [[130, 0, 7, 256], [0, 0, 5], [300], [17 * group % 120 for group in range(257)], [128] * 40],
    ids=["few", "empty", "one", "many", "equal"],
)
def test_groups_in_another_order(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    tutorial = load("02_scheduler")
    shape = sum(sizes), 400, 528
    monkeypatch.setattr(tutorial, "SIZES", sizes)
    monkeypatch.setattr(tutorial, "SHAPE", shape)
    inputs, found = tutorial.make(torch.device("cuda")), []
    for trial in tutorial.TUTORIAL.trials:
        for num_sms in (132, 8):
            with cute_gemm.config(num_sms=num_sms):
                out = repeated(lambda out, trial=trial: trial.run(trial.program, inputs, out), *shape[:2])
            trial.judge(inputs, out)
            found.append(bits(out))
    assert all(torch.equal(each, found[0]) for each in found)


def whole_numbers(m: int, n: int, k: int) -> tuple[Tensor, Tensor]:
    """Operands whose sums tensor cores have exactly, promoted or not."""
    random = torch.Generator("cuda").manual_seed(k)
    shapes = (m, k), (n, k)
    return tuple(  # type: ignore[return-value]
        torch.randint(-4, 5, shape, generator=random, device="cuda").float().to(torch.float8_e4m3fn)
        for shape in shapes
    )


@pytest.mark.parametrize("k", [16, 128, 400, 528, 1040, 2304])
@pytest.mark.parametrize("run", [0, 1, 2, 3, 4, 7])
def test_runs_of_k_blocks_are_whole(run: int, k: int) -> None:
    tutorial = load("03_mainloop")
    m, n = 328, 464
    a, b = whole_numbers(m, n, k)
    k_blocks = -(-k // 128)
    lhs, rhs = (a, torch.ones(m, k_blocks, device="cuda")), (b, torch.ones(4, k_blocks, device="cuda"))
    program = runtime.build(tutorial.CONFIG, mainloop=tutorial.LongRuns(run))
    out = repeated(lambda out: runtime.launch(program, lhs, rhs, out=out), m, n)
    assert torch.equal(out, (a.double() @ b.double().T).bfloat16())


@pytest.mark.parametrize("k", [16, 400, 2304])
@pytest.mark.parametrize("is_strided", [False, True])
def test_scales_of_tokens_and_channels(k: int, is_strided: bool) -> None:
    m, n = 328, 464
    a, b = whole_numbers(m, n, k)
    random = torch.Generator("cuda").manual_seed(1)
    columns = 3 if is_strided else 1
    sa, sb = (
        torch.exp2(torch.randint(-6, 7, (rows, columns), generator=random, device="cuda").float())[:, :1]
        for rows in (m, n)
    )
    truth = a.double() @ b.double().T * sa.double() * sb.double().T
    out = repeated(lambda out: runtime.launch(load("04_scaling").OWN, (a, sa), (b, sb), out=out), m, n)
    assert torch.equal(out, truth.bfloat16())


@pytest.mark.parametrize("name", ["accumulate", "swiglu"])
def test_an_epilogue_in_a_program(name: str) -> None:
    """What `launch` makes of it is what the operation makes of it."""
    m, n, k = 328, 448, 528
    lhs, rhs = make_inputs(m, n, k, device="cuda")
    before = torch.randn(m, n, device="cuda").bfloat16()
    config, given = KernelConfig(128, 128, 6), epilogue.alpha(0.5) | epilogue.accumulate(2.0)
    if name == "swiglu":
        config = KernelConfig(128, 128, 6, narrowing=2, epi_n=64)
        weights = epilogue.row_weights(torch.rand(m, device="cuda"))
        before, given = before[:, : n // 2].contiguous(), epilogue.swiglu() | weights
    program = runtime.build(config, epilogue=given)
    sums = dequantized_product(*lhs, *rhs).float()
    truth = given.apply(sums, before.clone(), None)
    for launch in (
        lambda out: runtime.launch(program, lhs, rhs, out=out, epilogue=given),
        lambda out: cute_gemm.fp8_gemm_nt(lhs, rhs, out, epilogue=given),
    ):
        outs = []
        for _ in range(TIMES):
            out = before.clone()
            launch(out)
            wait()
            outs.append(bits(out))
            assert worst_tile_error(out, truth) < 4e-6
        assert all(torch.equal(each, outs[0]) for each in outs)
