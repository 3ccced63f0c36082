"""`cute-gemm bench` as a user meets it, with stand-ins for what needs a GPU."""

import datetime
import json
import math
import os
import sys
from pathlib import Path

import pytest
import torch
from bench_rows import StandInTimer, grouped_row, row, stand_in_gpu
from stand_ins import card_of

from cute_gemm import cli
from cute_gemm.bench import command, results
from cute_gemm.bench.run import Bench
from cute_gemm.measure import layers, origin, records, timers
from cute_gemm.measure.work import problem_of
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import LAYOUTS
from cute_gemm.runtime import hardware, selection, warmup

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "h100"


@pytest.fixture
def run(capsys):
    """Runs the command in this process; returns status, standard output and standard error."""

    def run(*arguments):
        status = cli.main(["bench", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def on_gpu(monkeypatch):
    """Makes everything run on the CPU as if it were a Hopper GPU; gives the kernels that were compiled."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(layers, "WEIGHTS_BYTES", 0)
    monkeypatch.setattr(layers, "LEAST_LAYERS", 2)
    monkeypatch.setattr(command, "Sustained", StandInTimer)
    return stand_in_gpu(monkeypatch, 78)


def test_whole_run(run, on_gpu, tmp_path):
    """Everything but the GPU: plan, compile, measure, write, compare, draw."""
    shapes = ["1x576x7168", "8x32x128", "2x20x32x128"]
    status, out, err = run("--out", tmp_path, "--peers", "none", "--shapes", *shapes)
    assert status == 0, err
    for regime, layouts in (("cold", ["m_major", "row_major"]), ("sustained", ["m_major"])):
        rows = records.read_rows(tmp_path / f"dense_{regime}.jsonl")
        timed = [(records.shape_of(each), each["scale_layout"]) for each in rows]
        assert timed == [(shape, layout) for shape in [(1, 576, 7168), (8, 32, 128)] for layout in layouts]
        assert {each["regime"] for each in rows} == {regime}
        assert (tmp_path / f"grouped_{regime}.jsonl").exists()
    grouped = records.read_rows(tmp_path / "grouped_cold.jsonl")
    assert list(dict.fromkeys(each["op"] for each in grouped)) == list(records.GROUPED)
    problems = [problem_of("dense_1d2d", shape, card_of(78)) for shape in [(1, 576, 7168), (8, 32, 128)]]
    problems += [problem_of(op, (2, 20, 32, 128), card_of(78)) for op in records.GROUPED]
    assert set(on_gpu) == {selection.select(problem, tma) for problem in problems for tma in (True, False)}
    # DeepGEMM's figures have the first shape only.
    assert "cold dense_1d2d: ours against DeepGEMM" in out
    assert "1x576x7168" in out.split("ours against DeepGEMM")[1]
    assert "8x32x128" not in out.split("ours against DeepGEMM")[1]
    assert "## Dense: cold L2" in (tmp_path / "tables.md").read_text()
    assert (tmp_path / "roofline_cold.png").exists() == ("matplotlib" in sys.modules)
    chain = records.read_rows(tmp_path / "dense_chain.jsonl")
    assert [each["peer"] for each in chain] == [
        records.OURS,
        records.OURS_DEPENDENT,
        records.OURS_INDEPENDENT,
    ] * 2
    assert "FAILED" not in out + err


@pytest.mark.parametrize(("regime", "kinds"), [("cold", [True, False]), ("sustained", [True])])
def test_kernels_are_compiled_for_the_scales_that_are_timed(
    regime, kinds, run, on_gpu, monkeypatch, tmp_path
):
    def select(problem, tma_scales=False):
        return KernelConfig(128, 64, 4, layout=problem.layout, tma_scales=tma_scales)

    monkeypatch.setattr(selection, "select", select)
    arguments = ["--peers", "none", "--regime", regime, "--shapes", "1x32x128", "2x20x32x128"]
    assert run("--out", tmp_path, *arguments)[0] == 0
    wanted = {
        KernelConfig(128, 64, 4, layout=layout, tma_scales=tma)
        for layout in LAYOUTS.values()
        for tma in kinds
    }
    assert set(on_gpu) == wanted
    assert {each["config"] for each in results.read_results(tmp_path)} == {each.name for each in wanted}


def test_arguments_choose(run, on_gpu, tmp_path):
    arguments = ["--out", tmp_path, "--peers", "none", "--shapes", "8x32x128", "2x20x32x128"]
    assert run(*arguments, "--suite", "grouped", "--regime", "cold", "--ops", "m_grouped_offsets")[0] == 0
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["grouped_cold.jsonl"]
    assert {each["op"] for each in results.read_results(tmp_path)} == {"m_grouped_offsets"}


def test_failures_are_printed_and_counted(run, on_gpu, monkeypatch, tmp_path):
    def broken(*_):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("cute_gemm.fp8_gemm_nt", broken)
    arguments = ["--out", tmp_path, "--peers", "none", "--regime", "cold", "--shapes"]
    status, out, err = run(*arguments, "8x32x128", "2x20x32x128")
    assert status == 1
    assert err == "FAILED cold 8x32x128: RuntimeError: no such kernel\n"
    assert "FAILED cold 8x32x128" in out
    assert len(results.read_results(tmp_path)) == 6
    # Nothing left to draw.
    status, out, err = run(*arguments, "8x32x128")
    assert "tables:" not in out
    assert (status, err) == (1, "FAILED cold 8x32x128: RuntimeError: no such kernel\n")


def test_missing_peers_and_timers_are_named(run, on_gpu, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(timers, "cold_timer", lambda: (StandInTimer(), "the profiler saw: none"))
    _, out, _ = run("--out", tmp_path, "--peers", "triton,deep_gemm", "--shapes", "8x32x128")
    assert out.splitlines()[:3] == [
        "triton is not timed: the package triton is not installed",
        "deep_gemm is not timed: the package deep_gemm is not installed",
        "CUPTI cannot be used, so cold calls are timed by stand-in: the profiler saw: none",
    ]


def test_without_a_hopper_gpu_it_says_so(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, err = run()
    assert status == 1
    assert err.startswith("cute-gemm: bench times a GPU, and torch sees none; --plot and --compare work")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(hardware, "is_hopper", lambda: False)
    monkeypatch.setattr(hardware, "describe", lambda: "NVIDIA L4 (compute capability 8.9)")
    status, _, err = run()
    assert (status, err) == (
        1,
        "cute-gemm: bench times a Hopper GPU; this is NVIDIA L4 (compute capability 8.9)\n",
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--shapes", "64"], "want MxNxK or GxMxNxK or MxK or TxExAxCxKxI, numbers from 1 on; got '64'"),
        (
            ["--shapes", "64x8x"],
            "want MxNxK or GxMxNxK or MxK or TxExAxCxKxI, numbers from 1 on; got '64x8x'",
        ),
        (["--shapes", "0x8x16"], "want MxNxK"),
        (["--shapes", "64x8x-16"], "want MxNxK"),
        (
            ["--peers", "cutlass"],
            "want some of cublas,triton,deep_gemm,deep_gemm_pdl,floor,copy,torch,torch_compile,empty,unfused,"
            "unfused_deep_gemm,unfused_masked,bf16, or none; got 'cutlass'",
        ),
        (["--threshold", "-1"], "want percent"),
        (["--threshold", "nan"], "want percent"),
        (["--plot", ".", "--compare", "a", "b"], "not allowed with"),
    ],
)
def test_bad_arguments(run, capsys, arguments, complaint):
    with pytest.raises(SystemExit) as left:
        run(*arguments)
    assert left.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_shape_that_no_operation_takes(run):
    status, _, err = run("--shapes", "64x9x16")
    assert status == 1
    assert err.startswith("cute-gemm: 64x9x16: N = 9 is not a positive multiple of 8")


@pytest.mark.thorough
def test_committed_results_can_be_drawn(run, tmp_path):
    pytest.importorskip("matplotlib")
    status, out, err = run("--plot", RESULTS, "--out", tmp_path)
    assert status == 0, err
    names = {path.name for path in tmp_path.iterdir()}
    assert {"tables.md", "roofline_cold.png", "speedup_dense_1d2d_cold.svg"} < names
    assert {"tflops_over_m_cold.png", "speedup_m_grouped_offsets_cold.png"} < names
    assert "roofline_cold.png" in out
    assert not list(tmp_path.glob("*.jsonl"))


def test_tables_come_without_matplotlib(run, monkeypatch, tmp_path):
    records.write_rows(tmp_path / "dense_cold.jsonl", [row()])
    monkeypatch.delitem(sys.modules, "cute_gemm.bench.plots", raising=False)
    monkeypatch.delattr("cute_gemm.bench.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, out, _ = run("--plot", tmp_path)
    assert status == 0
    assert "pip install 'cute-gemm[bench]'" in out
    assert f"cute-gemm bench --plot {tmp_path}" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense_cold.jsonl", "tables.md"]


def test_row_major_results_alone_are_not_shown(run, tmp_path):
    pytest.importorskip("matplotlib")
    records.write_rows(tmp_path / "dense_cold.jsonl", [row(layout="row_major")])
    status, out, err = run("--plot", tmp_path)
    assert (status, out, err) == (0, f"tables: {tmp_path / 'tables.md'}\n", "")
    assert "##" not in (tmp_path / "tables.md").read_text()


def test_results_that_are_not_there(run, tmp_path):
    for arguments in (["--plot", tmp_path], ["--compare", tmp_path, tmp_path]):
        status, _, err = run(*arguments)
        assert status == 1
        assert err == f"cute-gemm: {tmp_path}: no JSON lines in it\n"


def test_results_that_are_in_a_folder_below(run, tmp_path):
    for name in ("h200", "h100"):
        records.write_rows(tmp_path / name / "dense_cold.jsonl", [row()])
    status, _, err = run("--plot", tmp_path)
    assert status == 1
    where = f"{tmp_path / 'h100'}, {tmp_path / 'h200'}"
    assert err == f"cute-gemm: {tmp_path}: no JSON lines in it; there are some in {where}\n"


def test_comparing(run, tmp_path):
    old, new = tmp_path / "old.jsonl", tmp_path / "new"
    # As wide as rows get: the verdict comes last, and must not be cut off.
    shape = (32, 8192, 24576, 16384)
    records.write_rows(old, [grouped_row(10000.0, shape=shape)])
    records.write_rows(new / "grouped_cold.jsonl", [grouped_row(10300.0, shape=shape)])
    status, out, _ = run("--compare", old, new)
    assert status == 1
    assert "SLOWER" in out.split("1 rows compared")[0]
    assert run("--compare", old, new, "--threshold", 3.5)[0] == 0
    assert run("--compare", new, old)[0] == 0


BAD_TIMES = [math.nan, math.inf, -5.0, 0, 1e-300, True, "5", None]


@pytest.mark.parametrize(("key", "value"), [(key, us) for key in ("us", "median") for us in BAD_TIMES])
def test_a_time_that_no_clock_gives_is_refused(run, tmp_path, key, value):
    """In place of a median there may be nothing: the mean then counts."""
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    records.write_rows(old, [row()])
    records.write_rows(new, [row() | {key: value}])
    status, out, err = run("--compare", old, new)
    if (key, value) == ("median", None):
        assert (status, err) == (0, "")
        return
    assert (status, out) == (1, "")
    assert err.startswith(f"cute-gemm: {new}: not a line of a benchmark: {key} is not a time in microseconds")
    assert err.count("\n") == 1
    assert run("--compare", new, old)[0] == 1


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"spread": math.nan}, "spread is not a share"),
        ({"spread": math.inf}, "spread is not a share"),
        ({"spread": -0.1}, "spread is not a share"),
        ({"m": 0}, "m is not a whole number"),
        ({"m": 4096.0}, "m is not a whole number"),
        ({"regime": "\x1b[31m"}, "regime is not cold, chain or sustained"),
        ({"device": 7}, "device is not a text"),
        ({"device": "x" * 1000}, "device is not a text"),
        ({"versions": ["torch"]}, "versions is not an object"),
        ({"op": ["dense"]}, "op is none"),
        ({"wrong": "beyond the limit"}, "ours is marked as wrong"),
    ],
)
def test_rows_that_are_none_are_refused(run, tmp_path, more, complaint):
    records.write_rows(tmp_path / "new.jsonl", [row() | more])
    for arguments in (["--compare", tmp_path, tmp_path], ["--plot", tmp_path]):
        status, _, err = run(*arguments)
        assert status == 1
        assert f"not a line of a benchmark: {complaint}" in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("content", [b"\xff", b"[" * 100_000, b"9" * 5000, b"{"])
def test_files_that_are_no_results(run, tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    status, _, err = run("--compare", path, path)
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith(f"cute-gemm: {path}")
    assert "unexpected" not in err


def test_a_file_without_end_is_not_read(run):
    status, _, err = run("--compare", "/dev/zero", "/dev/zero")
    assert (status, err) == (1, "cute-gemm: /dev/zero: it has more than 64 MiB\n")


def test_what_results_say_cannot_steer_a_terminal(run, tmp_path):
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    names = {"scale_layout": "[red]m[/red]\x1b[31m", "config": "a|b\r"}
    records.write_rows(old, [row() | names | {"device": "[/b]\x1b]0;x\x07"}])
    records.write_rows(new, [row() | names])
    status, out, err = run("--compare", old, new)
    assert (status, err) == (0, "")
    assert "[red]m[/red]\\x1b[31m" in out
    assert "measured on different devices: [/b]\\x1b]0;x\\x07 and NVIDIA H200" in out
    records.write_rows(new, [row() | {"config": "a|b\r", "device": "$\\frac{x$ \x1b"}])
    status, out, err = run("--plot", new, "--out", tmp_path / "plots")
    assert (status, err) == (0, "")
    assert "`a\\|b\\r`" in (tmp_path / "plots" / "tables.md").read_text()


def test_pictures_of_one_file_go_beside_it(run, tmp_path):
    records.write_rows(tmp_path / "rows.jsonl", [row(layout="row_major")])
    status, out, _ = run("--plot", tmp_path / "rows.jsonl")
    assert (status, out) == (0, f"tables: {tmp_path / 'tables.md'}\n")


def test_what_cannot_be_written_is_found_before_anything_is_measured(run, on_gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(Bench, "measure", lambda *_: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "under", Path("/proc/nothing")):
        status, _, err = run("--out", out, "--peers", "none", "--shapes", "8x32x128")
        assert status == 1
        assert err.startswith(f"cute-gemm: cannot write to {out}: ")
        assert err.count("\n") == 1
    assert on_gpu == []


def test_a_file_is_whole_or_as_it_was(monkeypatch, tmp_path):
    records.write_rows(tmp_path / "rows.jsonl", [row()])
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        records.write_rows(tmp_path / "rows.jsonl", [row(1.0), row(2.0)])
    assert records.read_rows(tmp_path / "rows.jsonl") == [row()]


def test_a_killed_worker_is_named(run, on_gpu, monkeypatch, tmp_path):
    def killed(configs):
        raise warmup.KilledWorker("a process that compiles kernels was killed")

    monkeypatch.setattr(warmup, "compile_configs", killed)
    status, _, err = run("--out", tmp_path, "--peers", "none", "--shapes", "8x32x128")
    assert (status, err) == (1, "cute-gemm: a process that compiles kernels was killed\n")


def test_origin_names_what_shapes_the_figures(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(origin, "driver_version", lambda: "580.159")
    found = origin.describe_origin({"triton": "3.8.0"})
    versions = found["versions"]
    assert {"cute_gemm", "nvidia-cutlass-dsl", "nvidia-cutlass-dsl-libs-base", "tvm-ffi"} < versions.keys()
    assert (versions["torch"], versions["cuda driver"]) == (torch.__version__, "580.159")
    assert versions["triton"] == "3.8.0"
    assert found["device"] == "NVIDIA H200"
    datetime.date.fromisoformat(found["date"])
    json.dumps(found)


def test_a_driver_that_cannot_be_asked(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert origin.driver_version() == "unknown"
