"""The command line as a user meets it: what it prints, what it refuses and in which words."""

import logging
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from stand_ins import stand_in_card

import cute_gemm
from cute_gemm import cli
from cute_gemm.cli import demo, products, weights
from cute_gemm.cli.status_line import status_line
from cute_gemm.plan import candidates, cost_model, tuned
from cute_gemm.plan.card import CARDS, H100
from cute_gemm.plan.problem import GemmProblem, why_impossible
from cute_gemm.runtime import builder, inspection, selection
from cute_gemm.runtime.inspection import InspectionError, KernelStats


@pytest.fixture
def run(capsys):
    """Runs the command line in this process; returns status, standard output and standard error."""

    def run(*arguments):
        status = cli.main([str(a) for a in arguments])
        return status, *capsys.readouterr()

    return run


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def rows(table):
    """The cells of each line of a printed table that has any."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if "│" in line]


# demo


def test_demo_of_a_shape(run):
    status, out, err = run("demo", "--m", 5, "--n", 24, "--k", 144)
    assert status == 0, err
    ((label, shape, config, dequantised, unquantised),) = rows(out)
    assert (label, shape) == ("random", "5 x 24 x 144")
    assert config == selection.select(GemmProblem(5, 24, 144)).name
    # Rounding to bf16, and rounding the operands to e4m3.
    assert 1e-7 < float(dequantised) < 3e-6
    assert 1e-4 < float(unquantised) < 2e-3
    assert "No GPU" in out


def test_demo_in_float32_is_closer(run):
    _, out, _ = run("demo", "--m", 5, "--n", 24, "--k", 144, "--out-dtype", "float32")
    ((_, _, config, dequantised, _),) = rows(out)
    assert config.endswith("fp32")
    assert float(dequantised) < 1e-10


def test_demo_notices_a_wrong_product(run, monkeypatch):
    right = cute_gemm.fp8_gemm_nt

    def wrong(*args, **kwargs):
        out = right(*args, **kwargs)
        out[128:] = 0
        return out

    monkeypatch.setattr(cute_gemm, "fp8_gemm_nt", wrong)
    _, out, _ = run("demo", "--m", 256, "--n", 128, "--k", 128)
    ((*_, dequantised, unquantised),) = rows(out)
    assert float(dequantised) == float(unquantised) == 1


def test_default_shapes_can_be_run(monkeypatch):
    ran = []
    monkeypatch.setattr(products, "_run", lambda label, m, weight, *rest: ran.append((m, *weight.shape)))
    list(products.run_shapes(demo.CPU_SHAPES, torch.device("cpu"), torch.bfloat16))
    assert ran == demo.CPU_SHAPES
    assert all(why_impossible(n, k) == "" for _, n, k in demo.GPU_SHAPES)


# demo --weights


@pytest.fixture
def checkpoint(tmp_path):
    """A file with a weight of every kind, and tensors that are none."""
    generator = torch.Generator().manual_seed(0)

    def weight(n, k):
        return torch.randn(n, k, generator=generator)

    stored, scales = cute_gemm.quantize_128x128(weight(136, 256) * 1e-3)
    tensors = {
        "bf16": weight(24, 144).bfloat16(),
        "fp16": weight(8, 16).half(),
        "fp32": weight(64, 160),
        "fp8": weight(16, 128).to(torch.float8_e4m3fn),
        "e5m2": weight(16, 128).to(torch.float8_e5m2),
        "scaled": stored,
        "scaled_scale_inv": scales,
        "odd_n": weight(12, 128),
        "odd_k": weight(16, 136),
        "ids": torch.zeros(16, 16, dtype=torch.int64),
        "bias": torch.zeros(16),
        "kernel": torch.zeros(4, 4, 4),
    }
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    return path


def test_weights_of_every_kind_are_run(run, checkpoint):
    status, out, err = run("demo", "--weights", checkpoint, "--tokens", 1, 130)
    assert status == 0, err
    assert [(name, shape) for name, shape, *_ in rows(out)] == [
        (name, f"{m} x {shape}")
        for name, shape in [
            ("bf16", "24 x 144"),
            ("e5m2", "16 x 128"),
            ("fp16", "8 x 16"),
            ("fp32", "64 x 160"),
            ("fp8", "16 x 128"),
            ("scaled", "136 x 256"),
        ]
        for m in (1, 130)
    ]
    assert all(float(dequantised) < 1e-5 for *_, dequantised, _ in rows(out))


def test_skipped_weights_are_listed_with_the_reason(run, checkpoint):
    _, out, _ = run("demo", "--weights", checkpoint, "--tokens", 1)
    assert [line for line in out.splitlines() if line.startswith("skipped")] == [
        "skipped ids: I64 is not a floating-point type",
        "skipped kernel: N = 4 is not a positive multiple of 8",
        "skipped odd_k: K = 136 is not a positive multiple of 16",
        "skipped odd_n: N = 12 is not a positive multiple of 8",
    ]


def test_stored_scales_are_applied(checkpoint):
    found, _ = weights.find(checkpoint)
    (scaled,) = [w for w in found if w.name == "scaled"]
    loaded = scaled.load(torch.device("cpu"))
    assert loaded.dtype == torch.float32
    # The weight was drawn with a standard deviation of 1e-3; what is stored has one of about 100.
    assert 0.9e-3 < loaded.std() < 1.1e-3


@pytest.mark.parametrize(
    ("stored", "scales", "reason"),
    [
        (torch.float8_e4m3fn, torch.ones(2, 1), "its scales have shape [2, 1]"),
        (torch.bfloat16, torch.ones(1, 1), "BF16 with scales is unknown here"),
    ],
)
def test_scales_that_do_not_fit(tmp_path, stored, scales, reason):
    save_file({"w": torch.zeros(128, 128).to(stored), "w_scale_inv": scales}, tmp_path / "w.safetensors")
    found, skipped = weights.find(tmp_path / "w.safetensors")
    assert found == []
    assert [s.name for s in skipped] == ["w"]
    assert skipped[0].reason.startswith(reason)


def test_file_without_weights(run, tmp_path):
    path = tmp_path / "biases.safetensors"
    save_file({"bias": torch.zeros(8)}, path)
    status, out, err = run("demo", "--weights", path)
    assert (status, out) == (1, "")
    assert f"{path} holds no 2-D tensor" in err


def test_file_of_another_kind(run, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a checkpoint")
    status, _, err = run("demo", "--weights", path)
    assert status == 1
    assert err.startswith(f"cute-gemm: {path} is not a safetensors file")


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--m", "8"], "--m, --n and --k go together"),
        (["demo", "--m", "8", "--n", "7", "--k", "16"], "8 x 7 x 16: N = 7 is not a positive multiple of 8"),
        (["demo", "--m", "8", "--n", "8", "--k", "8"], "8 x 8 x 8: K = 8 is not a positive multiple of 16"),
        (["demo", "--tokens", "8"], "--tokens goes with --weights"),
        (["demo", "--weights", "w", "--m", "8"], "--weights brings its own shapes"),
        (["demo", "--weights", "/nowhere/w"], "no such file: /nowhere/w"),
        (["inspect", "--m", "8", "--n", "7", "--k", "16"], "N = 7 is not a positive multiple of 8"),
    ],
)
def test_mistakes_take_one_line(run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith(f"cute-gemm: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("value", ["0", "-4", "many", "1.5", ""])
def test_dimensions_are_positive_whole_numbers(capsys, value):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["demo", "--m", value])
    assert exit_.value.code == 2
    assert f"want a whole number of at least 1, got {value!r}" in capsys.readouterr().err


# Where it runs


def test_another_gpu_than_hopper_runs_the_reference(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 0))
    status, out, _ = run("demo", "--m", 1, "--n", 8, "--k", 16)
    assert status == 0
    assert "NVIDIA A100 (compute capability 8.0) is not a Hopper GPU" in out


def test_speed_columns():
    problem = GemmProblem(4096, 7168, 16384)
    result = products.Result("w", problem, "256x128", 1.4e-6, 6.8e-4, us=650.0, device="NVIDIA H200")
    # 2 * 4096 * 7168 * 16384 operations in 650 us; at 1979 TFLOP/s they take 486.1 us.
    assert result.tflops == pytest.approx(1480.1, abs=0.1)
    assert result.share_of_limit == pytest.approx(0.7479, abs=1e-3)
    table = demo._results_table([result], torch.device("cuda"))
    assert [next(iter(column.cells)) for column in table.columns][-3:] == ["650.0", "1480", "75%"]


def test_the_limit_is_that_of_the_card():
    """What memory bounds takes longer where memory is slower; of an unknown card there is no limit."""
    problem = GemmProblem(1, 2112, 7168)
    cards = {"NVIDIA H200": 4.8, "NVIDIA H100 80GB HBM3": 3.35}
    for name, terabytes in cards.items():
        result = products.Result("w", problem, "64x64", 1.4e-6, 6.8e-4, us=10.0, device=name)
        assert result.share_of_limit == pytest.approx(problem.bytes_moved / terabytes * 1e-6 / 10)
    result = products.Result("w", problem, "64x64", 1.4e-6, 6.8e-4, us=10.0, device="NVIDIA L4")
    assert result.share_of_limit is None
    table = demo._results_table([result], torch.device("cuda"))
    assert [next(iter(column.cells)) for column in table.columns][-3:] == ["10.0", "3", "-"]


def test_a_gpu_that_cannot_be_profiled_is_said_so_in_one_line(run, monkeypatch):
    """What is computed on the CPU passes for a GPU's here."""
    run_shapes = products.run_shapes

    def no_profile(call):
        raise RuntimeError("time_cold: want one kernel;\n the profiler saw: none" + " x" * 99)

    def on_the_cpu(shapes, device, out_dtype):
        monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)
        yield from run_shapes([(5, 24, 144), (6, 24, 144)], torch.device("cpu"), out_dtype)

    monkeypatch.setattr(products.testing, "time_cold", no_profile)
    monkeypatch.setattr(products, "run_shapes", on_the_cpu)
    monkeypatch.setattr(demo, "_device", lambda: (torch.device("cuda"), "On a GPU:"))
    stand_in_card(monkeypatch, 78)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    status, out, err = run("demo")
    assert status == 0, err
    table = rows(out)
    assert [row[1] for row in table[-2:]] == ["5 x 24 x 144", "6 x 24 x 144"]
    assert all(float(row[3]) < 1e-5 and row[5:] == ["-", "-", "-"] for row in table[-2:])
    (line,) = [line for line in out.splitlines() if "time_cold" in line]
    assert line.startswith("not timed: time_cold: want one kernel; the profiler saw: none x")
    assert line.endswith(" x")


def test_figures_are_not_cut_on_a_narrow_terminal(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = run("demo", "--m", 5, "--n", 24, "--k", 144)
    assert "…" not in out


# inspect


def test_inspect_compiles_and_reads_the_chosen_kernel(run):
    status, out, err = run("inspect", "--m", 64, "--n", 576, "--k", 7168)
    assert status == 0, err
    config = selection.select(GemmProblem(64, 576, 7168))
    cells = {row[0]: row[1:] for row in rows(out)}
    assert f"{config.name} (chosen)" in cells
    assert cells["spill loads / stores"] == ["0 / 0"]
    assert 64 <= int(cells["registers per thread at launch"][0]) <= 255
    count, in_loop, _ = cells["QGMMA"]
    assert 0 < int(in_loop) <= int(count)
    assert int(cells["UTMALDG"][0]) > 0
    assert cells["LDL"][0] == cells["STL"][0] == "0"


@pytest.mark.parametrize("m_major", [False, True])
def test_inspect_ranks_the_rivals(run, monkeypatch, m_major):
    problem = GemmProblem(4096, 4096, 7168)
    run_as = [candidates.as_run(problem, choice.config, m_major) for choice in cost_model.rank(problem)]
    # Were a measured table to prefer the configuration that the model ranks last, it would still be shown.
    last = next(config for config in reversed(run_as) if config.tma_scales == m_major)
    assert last not in run_as[:3]
    monkeypatch.setattr(selection, "select", lambda problem, tma_scales: last)
    monkeypatch.setattr(builder, "cubin", lambda config: b"")
    monkeypatch.setattr(inspection, "read_cubin", lambda cubin: KernelStats("k", 168, 1024, 0, (), ()))
    _, out, _ = run("inspect", "--m", 4096, "--n", 4096, "--k", 7168, *(["--m-major"] if m_major else []))
    table = rows(out[: out.index("Compiled kernel")])
    assert [row[0] for row in table[:3]] == [config.name for config in run_as[:3]]
    assert table[0][2] == "+0.0%"
    assert table[-1][0] == f"{last.name} (chosen)"
    cells = {row[0]: row[1:] for row in rows(out)}
    assert cells["shared memory per block"] == [f"{last.smem_bytes:,} bytes"]
    assert cells["of it static"] == ["1,024 bytes"]


def test_inspect_is_of_a_card(run, monkeypatch):
    """Its own rival comes first where tensor cores are slow, or few multiprocessors are given."""
    monkeypatch.setattr(builder, "cubin", lambda config: b"")
    monkeypatch.setattr(inspection, "read_cubin", lambda cubin: KernelStats("k", 168, 1024, 0, (), ()))
    for card, num_sms in ((CARDS["NVIDIA H20"], 78), (CARDS["NVIDIA H20"], 9), (H100, 132)):
        of_all = [] if num_sms == card.sms else ["--num-sms", num_sms]
        status, out, _ = run("inspect", "--m", 300, "--n", 4096, "--k", 7168, "--card", card.name, *of_all)
        assert status == 0
        assert f"{num_sms} SMs of {card.name}" in out
        first = cost_model.rank(GemmProblem(300, 4096, 7168, num_sms=num_sms, card=card))[0]
        us = [f"{each:.1f}" for each in (first.cost_us, first.tiles_us, first.dram_us)]
        numbers = us[0], "+0.0%", str(first.waves), *us[1:], f"{first.factor:.2f}"
        assert rows(out)[0] == [f"{first.config.name} (chosen)", *numbers]


def test_inspect_says_what_was_measured(run, monkeypatch):
    monkeypatch.setattr(builder, "cubin", lambda config: b"")
    monkeypatch.setattr(inspection, "read_cubin", lambda cubin: KernelStats("k", 168, 1024, 0, (), ()))
    third = cost_model.rank(GemmProblem(300, 4096, 7168))[2].config
    monkeypatch.setattr(tuned, "choice", lambda problem: third)
    _, out, _ = run("inspect", "--m", 300, "--n", 4096, "--k", 7168)
    assert rows(out)[2][0] == f"{third.name} (chosen, as measured)"


@pytest.mark.parametrize("option", [("--card", "NVIDIA H20"), ("--num-sms", 3)])
def test_inspect_refuses_a_card_without_a_shape(run, option):
    status, _, err = run("inspect", "--config", "128x128_c1x1_s6_l2p256_bf16", *option)
    assert status == 1
    assert "--card and --num-sms go with a shape" in err


def test_inspect_refuses_more_multiprocessors_than_a_card_has(run):
    arguments = "--m", 8, "--n", 8, "--k", 16, "--card", "NVIDIA H20", "--num-sms", 79
    status, _, err = run("inspect", *arguments)
    assert status == 1
    assert "--num-sms is 79, but NVIDIA H20 has 78" in err


def test_inspect_without_tools_names_the_package(run, monkeypatch):
    def missing(cubin):
        raise InspectionError("nvdisasm was not found; install it with: pip install nvidia-cuda-nvdisasm")

    monkeypatch.setattr(builder, "cubin", lambda config: b"")
    monkeypatch.setattr(inspection, "read_cubin", missing)
    status, _, err = run("inspect", "--m", 8, "--n", 8, "--k", 16)
    assert status == 1
    assert err.splitlines()[-1].endswith("pip install nvidia-cuda-nvdisasm")


# Progress, info, and the program itself


def test_compiler_messages_reach_the_user_and_then_stop(capsys, monkeypatch):
    logger = logging.getLogger("cute_gemm.runtime.compiler")
    monkeypatch.setattr(logger, "level", logging.ERROR)
    handlers = list(logger.handlers)
    with status_line("working ...") as update:
        logger.info("compiling %s ...", "256x128")
        logger.warning("threw away %s", "one")
        update("a line that cannot move is not worth printing")
    logger.info("after")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["cute-gemm: compiling 256x128 ...", "cute-gemm: warning: threw away one"]
    assert (logger.level, logger.handlers) == (logging.ERROR, handlers)


def test_a_warning_stays_where_a_line_moves(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    logger = logging.getLogger("cute_gemm.runtime.compiler")
    with status_line("working ..."):
        logger.info("compiling %s ...", "256x128")
        logger.warning("threw away %s", "one")
    _, err = capsys.readouterr()
    assert "cute-gemm: warning: threw away one\n" in err
    assert "cute-gemm: compiling" not in err


def test_info(run, monkeypatch, tmp_path):
    monkeypatch.setenv("CUTE_GEMM_CACHE_DIR", str(tmp_path))
    (tmp_path / f"{1:064x}.kernel").write_bytes(bytes(3 << 20))
    (tmp_path / f".{1:064x}.kernel.{2:016x}.tmp").touch()
    status, out, _ = run("info")
    cells = {row[0]: row[1] for row in rows(out)}
    assert status == 0
    assert cells["cute_gemm"] == cute_gemm.__version__
    assert cells["torch"] == torch.__version__
    assert {"nvidia-cutlass-dsl", "nvidia-cutlass-dsl-libs-base", "apache-tvm-ffi"} <= set(cells)
    assert cells["GPU"].startswith("none")
    assert cells["cache"] == str(tmp_path)
    assert cells["kernels in it"] == "1, 3.0 MiB, 1 leftovers of writers"
    assert "not used, because" not in cells


def test_info_says_why_a_cache_is_not_used(run, monkeypatch, tmp_path):
    monkeypatch.setenv("CUTE_GEMM_CACHE_DIR", str(tmp_path))
    tmp_path.chmod(0o777)
    _, out, _ = run("info")
    assert "anyone may write to" in dict(row[:2] for row in rows(out))["not used, because"]
    monkeypatch.setenv("CUTE_GEMM_CACHE_DIR", "")
    _, out, _ = run("info")
    assert dict(row[:2] for row in rows(out))["cache"] == "switched off"


def test_info_says_why_a_pack_is_not_used(run, monkeypatch, tmp_path):
    monkeypatch.setenv("CUTE_GEMM_PACKS", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "400")
    status, out, err = run("info")
    cells = {row[0]: row[1] for row in rows(out)}
    assert (status, err) == (0, "")
    assert (cells["pack"], cells["kernels in it"]) == (str(tmp_path), "0")
    assert "manifest.json: No such file" in cells["not used, because"]


def test_a_report_says_what_is_broken(run, monkeypatch):
    monkeypatch.setenv("CUTE_GEMM_JIT", "never")
    monkeypatch.setenv("CUDA_API_TOKEN", "hidden")
    monkeypatch.setenv("TMPDIR", os.path.expanduser("~/there"))
    monkeypatch.setattr("cute_gemm.cli.report.driver_version", lambda: 1 / 0)
    status, out, _ = run("info", "--report")
    facts = dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)
    assert status == 0
    assert f"torch {torch.__version__.partition('+')[0]}" in facts["distributions"]
    assert "CUTE_GEMM_JIT=never" in facts["variables"]
    assert "hidden" not in out
    assert "TMPDIR=~/there" in facts["variables"]
    assert facts["driver"] == "ZeroDivisionError: division by zero"
    assert facts["product"].startswith("on cpu, error 1")


def test_the_module_is_the_program():
    command = [sys.executable, "-m", "cute_gemm", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.strip() == cute_gemm.__version__


def test_status_of_the_module():
    command = [sys.executable, "-m", "cute_gemm", "demo", "--m", "8"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr


def test_the_dsl_is_not_imported_for_a_demo_on_the_cpu():
    code = (
        "import sys; from cute_gemm.cli import main; main(['demo', '--m', '1', '--n', '8', '--k', '16']);"
        "assert 'cutlass' not in sys.modules"
    )
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=environment)
