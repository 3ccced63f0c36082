"""`cute-gemm tune` as a user meets it; a GPU is a stand-in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_ins import card_of, stand_in_card
from test_tune import Kernels, StandInTimer
from test_tune_models import DEEPSEEK

from cute_gemm import cli
from cute_gemm.measure import layers, timers
from cute_gemm.measure.timers import Times
from cute_gemm.plan import tuned
from cute_gemm.plan.card import H100
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.plan.tuned import choice, files
from cute_gemm.runtime import builder, hardware, selection, warmup
from cute_gemm.tune import command, picking, tasks
from cute_gemm.tune.calls import case_of

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `tune` in this process; returns status, standard output and standard error."""

    def run(*arguments: Any) -> tuple[int, str, str]:
        status = cli.main(["tune", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kernels:
    """A Hopper GPU whose kernels run in plain torch, all in 99 us but the second of each problem in 50."""
    kernels = Kernels()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(hardware, "is_hopper", lambda: True)
    stand_in_card(monkeypatch, 78)
    monkeypatch.setattr(builder, "instance", kernels.instance)
    monkeypatch.setattr(warmup, "compile_configs", list)
    monkeypatch.setattr(timers, "cold_timer", lambda: (StandInTimer(99.0, 50.0), ""))
    monkeypatch.setattr(layers, "MOST_LAYERS", 4)
    monkeypatch.setattr(timers, "GraphReplay", lambda: StandInTimer(4 * 99.0, 4 * 40.0, rest=4 * 99.0))
    monkeypatch.setattr(command, "Sustained", lambda rounds: StandInTimer(60.0, 70.0))
    monkeypatch.setattr(picking, "case_of", lambda task, sizes, device: case_of(task, sizes, "cpu"))
    monkeypatch.setenv(files.DIRECTORY_VARIABLE, str(tmp_path / "user"))
    return kernels


def test_a_dry_run_lists_what_would_be_timed(run: Run) -> None:
    status, out, _ = run("--shapes", "64x7168x2048", "1x576x7168", "--within", 1.3, "--dry-run")
    assert status == 0
    first, second = out.splitlines()
    configs = tasks.configs_to_time(GemmProblem(64, 7168, 2048), 1.3)
    names = " ".join(config.name for config in configs)
    assert first == f"dense 64x7168x2048: {len(configs)} candidates: {names}"
    assert second.startswith("dense 1x576x7168: ")


def test_a_dry_run_of_a_model(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(DEEPSEEK))
    _, out, _ = run(
        "--model", tmp_path, "--m", 1, 64, "--dry-run", "--num-sms", 100, "--out-dtype", "float32"
    )
    assert len(out.splitlines()) == 2 * 8
    assert "dense 64x2112x7168 (q_a_proj+kv_a_proj): " in out
    assert all("_fp32" in line for line in out.splitlines())
    _, out, _ = run("--model", tmp_path, "--op", "contiguous", "--dry-run")
    assert len(out.splitlines()) == 2 * 10
    assert out.startswith("contiguous 256x1x4096x7168 (experts.gate_up_proj): ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shapes", "64x7168x2048"], "tune times a GPU, and torch sees none; --dry-run works without one"),
        (["--shapes", "64x7168x2048", "--m", "1"], "--m goes with --model"),
        (["--shapes", "64x7168x2048", "--op", "masked"], "want GxMxNxK"),
        (["--shapes", "64x7168x2048", "--num-sms", "133"], "--num-sms is 133, but there are 132"),
        (["--model", "/none/config.json"], "No such file"),
    ],
)
def test_mistakes_take_one_line(arguments: list[str], message: str, run: Run) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("cute-gemm: ")
    assert message in line


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--shapes", "64x7168"],
        ["--shapes", "0x7168x2048"],
        ["--shapes", "64x7168x2048", "--within", "0.9"],
        ["--shapes", "64x7168x2048", "--within", "nan"],
        ["--shapes", "64x7168x2048", "--model", "config.json"],
        ["--model", "config.json", "--m", "0"],
    ],
)
def test_arguments_that_do_not_parse(arguments: list[str], run: Run) -> None:
    with pytest.raises(SystemExit) as info:
        run(*arguments)
    assert info.value.code == 2


def test_another_gpu_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(hardware, "is_hopper", lambda: False)
    monkeypatch.setattr(hardware, "describe", lambda: "NVIDIA L4 (compute capability 8.9)")
    status, _, err = run("--shapes", "64x7168x2048")
    assert status == 1
    assert "tune times a Hopper GPU; this is NVIDIA L4" in err


def test_what_is_tuned_is_dispatched(
    run: Run, gpu: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "user" / "nvidia_h100_80gb_hbm3.json"
    monkeypatch.setattr(tuned, "choice", choice)
    files.tables.cache_clear()
    status, out, err = run("--shapes", "16x136x272", "24x136x272")
    assert (status, err) == (0, "")
    problem = GemmProblem(16, 136, 272, num_sms=78, card=card_of(78))
    config = tasks.configs_to_time(problem, 1.2)[1]
    assert out.splitlines()[1:] == [
        f"dense 16x136x272: {config.name}: 50.00 us cold (-49.5%), 40.00 us chain (-59.6%)",
        f"dense 24x136x272: {config.name}: 50.00 us cold (-49.5%), 40.00 us chain (-59.6%)",
        f"2 of 2 problems tuned: {path}",
    ]
    files.tables.cache_clear()
    assert selection.select(problem) == config
    assert selection.select(GemmProblem(20, 136, 272, num_sms=78, card=card_of(78))) == config
    files.tables.cache_clear()


def test_regimes_and_multiprocessors(run: Run, gpu: Kernels, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    arguments = "--shapes", "16x136x272", "--out", path, "--num-sms", 50
    for regimes, *us in (
        ([], 50.0, 40.0, None),
        (["--regime", "cold"], 50.0, None, None),
        (["--regime", "sustained"], None, None, 60.0),
        (["--regime", "cold", "sustained"], 50.0, None, 70.0),
        (["--regime", "chain"], None, 40.0, None),
    ):
        assert run(*arguments, *regimes)[0] == 0
        (entry,) = files.read(path, H100.name)
        assert [entry.cold_us, entry.chain_us, entry.sustained_us] == us
        assert entry.num_sms == 50
    assert {num_sms for _, num_sms in gpu.launched} == {50}
    assert "78" in run(*arguments, "--num-sms", 79)[2]


def test_without_cupti_cold_calls_are_timed_by_what_is_left(
    run: Run, gpu: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.json"
    replaced = "CUPTI cannot be used, so cold calls are timed by stand-in: the profiler saw: none"
    monkeypatch.setattr(timers, "cold_timer", lambda: (StandInTimer(99.0, 40.0), "the profiler saw: none"))
    for regime, cold_us in (("cold", 40.0), ("sustained", None)):
        status, out, err = run("--shapes", "16x136x272", "--out", path, "--regime", regime)
        assert (status, err) == (0, "")
        assert (out.splitlines()[0] == replaced) == (regime != "sustained")
        (entry,) = files.read(path, H100.name)
        assert entry.cold_us == cold_us


def test_failures_are_printed_again_at_the_end(run: Run, gpu: Kernels, tmp_path: Path) -> None:
    # Of one that adds up in another order the result is judged by itself.
    candidates = tasks.configs_to_time(GemmProblem(16, 136, 272, num_sms=78, card=card_of(78)), 1.2)
    gpu.wrong = [[config for config in candidates if config.splits == 1][-1]]
    status, out, err = run("--shapes", "16x136x272", "--out", tmp_path / "mine.json")
    assert status == 1
    assert "0 of 1 problems tuned" in out
    assert err.startswith(f"FAILED dense 16x136x272: AssertionError: {gpu.wrong[0].name} differs from")


def test_an_interrupt_ends_it(
    run: Run, gpu: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(StandInTimer):
        def __call__(self, calls: Any) -> list[Times]:
            raise KeyboardInterrupt

    monkeypatch.setattr(timers, "cold_timer", lambda: (Interrupted(), ""))
    assert run("--shapes", "16x136x272", "--out", tmp_path / "mine.json")[0] == 130


def test_what_cannot_be_written_is_reported_before_anything_is_timed(
    run: Run, gpu: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "foreign.json"
    content = '{"format": 2, "device": "NVIDIA L4", "entries": []}'
    foreign.write_text(content)
    in_a_file = foreign / "mine.json"
    for path, message in ((foreign, 'it is for "NVIDIA L4"'), (in_a_file, "File exists")):
        status, _, err = run("--shapes", "16x136x272", "--out", path)
        assert status == 1
        assert f"cannot keep choices in {path}: " in err
        assert message in err
    assert foreign.read_text() == content
    monkeypatch.setenv(files.DIRECTORY_VARIABLE, "")
    status, _, err = run("--shapes", "16x136x272")
    assert status == 1
    assert "name a file by --out" in err
    assert not gpu.launched


def test_what_is_left_out_of_a_model_is_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(DEEPSEEK | {"index_n_heads": 64}))
    status, out, err = run("--model", tmp_path, "--m", 1, "--dry-run")
    assert status == 0
    assert err == "cute-gemm: left out: the indexer of sparse attention (index_n_heads)\n"
    assert "left out" not in out


def test_a_folder_is_no_file_to_write_to(run: Run, gpu: Kernels, tmp_path: Path) -> None:
    for out in (tmp_path, "/", ""):
        status, _, err = run("--shapes", "16x136x272", "--out", out)
        assert status == 1
        assert "is a folder; name a file by --out" in err
    assert not gpu.launched


def test_a_pipe_that_breaks_is_no_fault_of_the_file(
    run: Run, gpu: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(text: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(command, "say", broken)
    status, _, err = run("--shapes", "16x136x272", "--out", tmp_path / "mine.json")
    assert (status, err) == (141, "")


def test_info_says_where_choices_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(files.DIRECTORY_VARIABLE, str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    cli.main(["info"])
    out = capsys.readouterr().out
    assert str(tmp_path) in next(line for line in out.splitlines() if "tuned choices" in line)
