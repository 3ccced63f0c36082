"""What the benchmarks do besides timing: rows, ratios, tables, and refusing to time what is wrong."""

import datetime
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import cute_gemm
from cute_gemm.problem import GemmProblem

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
comparison = importlib.import_module("comparison")
dense = importlib.import_module("dense")
records = importlib.import_module("records")

ORIGIN = {"versions": {"torch": "2.11.0"}, "device": "NVIDIA H200", "date": "2026-11-23"}
SHAPE = (4096, 4096, 7168)


def row(us=200.0, shape=SHAPE, peer=records.OURS, regime="cold", layout="row_major"):
    return records.measurement(
        GemmProblem(*shape),
        peer,
        us,
        median=us,
        spread=0.01234567,
        regime=regime,
        scale_layout=layout,
        config="256x128_c2x1_s3_bf16",
        error_worst_tile=1.4321e-6,
        origin=ORIGIN,
    )


def timer(fn):
    """Stands in for the timers, which need a GPU; it calls `fn` as often as any, at least once."""
    fn()
    return 10.0, 9.0, 0.5


# Rows


def test_row_holds_all_that_a_result_needs():
    assert row(us=200.0004) == {
        "op": "dense_1d2d",
        "m": 4096,
        "n": 4096,
        "k": 7168,
        "peer": "cute_gemm",
        "us": 200.0,
        "tflops": 1202.6,
        "gb_per_s": 466.0,
        "median": 200.0,
        "spread": 0.0123,
        "regime": "cold",
        "config": "256x128_c2x1_s3_bf16",
        "scale_layout": "row_major",
        "error_worst_tile": 1.432e-6,
        **ORIGIN,
    }


@pytest.mark.parametrize("regime", ["cold", "sustained"])
def test_rates_mean_what_they_mean_in_the_peers_files(regime):
    name = {"cold": "h200.jsonl", "sustained": "h200_sustained.jsonl"}[regime]
    for peer in records.read_rows(records.BENCHMARKS / "peers" / name):
        ours = row(peer["us"], records.shape_of(peer))
        # Their times are rounded to 0.1 us (sustained) or 0.01 us (cold, from 7 us).
        assert ours["tflops"] == pytest.approx(peer["tflops"], rel=1e-3, abs=0.11)
        if "gb_per_s" in peer:
            assert ours["gb_per_s"] == pytest.approx(peer["gb_per_s"], rel=2e-3)


def test_peers_shapes():
    cold, sustained = records.peer_shapes("cold"), records.peer_shapes("sustained")
    assert len(cold) == len(set(cold)) == 35
    assert {m for m, _, _ in cold} == {1, 64, 128, 512, 4096}
    assert len(sustained) == 5
    assert set(sustained) < set(cold)


def test_rows_survive_the_file(tmp_path):
    rows = [row(), row(peer=records.FAST, layout=None)]
    records.write_rows(tmp_path / "new" / "rows.jsonl", rows)
    assert records.read_rows(tmp_path / "new" / "rows.jsonl") == rows


# Ratios


def test_ratios():
    fast = records.peer_times("cold")[records.FAST][SHAPE]
    rows = [row(200.0), row(190.0, layout="m_major"), row(fast * 1.1, peer=records.FAST, layout=None)]
    (found,) = comparison.compare(rows, "cold")
    assert found.us == 200.0
    assert found.ratio == pytest.approx(168.73 / 200.0)
    # This card is slower than the peers' one, so on theirs we would be faster.
    assert found.scaled_ratio == pytest.approx(168.73 / 200.0 * 1.1, rel=1e-4)
    assert found.row_major_cost == pytest.approx(200.0 / 190.0)


def test_what_was_not_measured_is_not_made_up():
    (found,) = comparison.compare([row()], "cold")
    assert found.card is found.scaled_ratio is found.row_major_cost is None
    assert comparison.compare([row(layout="m_major")], "cold") == []
    assert comparison.compare([row(regime="sustained")], "cold") == []
    assert comparison.compare([row(shape=(96, 4096, 7168))], "cold") == []
    assert comparison.compare([{**row(), "op": "m_grouped_masked"}], "cold") == []


def test_one_thing_measured_twice_is_refused():
    with pytest.raises(ValueError, match="two cold rows of cute_gemm"):
        comparison.compare([row(), row(199.0)], "cold")


def test_geometric_mean():
    assert comparison.geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0)
    # Only one of the two is calibrated: a mean over that one would not be the mean of both.
    rows = [row(), row(shape=(64, 4096, 7168)), row(peer=records.FAST, layout=None)]
    found = comparison.compare(rows, "cold")
    assert comparison.mean_of(found, lambda each: each.ratio) is not None
    assert comparison.mean_of(found, lambda each: each.scaled_ratio) is None
    assert comparison.mean_of([], lambda each: each.ratio) is None


def test_table():
    rows = [
        row(10.02 / 0.9, (64, 2112, 7168)),
        row(11.05 / 0.4, (128, 2112, 7168)),
        row(168.73),
        row(168.73 / 1.03, layout="m_major"),
    ]
    table = comparison.text_table(comparison.compare(rows, "cold"), "cold")
    lines = [line.split() for line in table.splitlines()]
    name = "256x128_c2x1_s3_bf16"
    assert ["4096x4096x7168", name, "168.73", "168.73", "1.000", "-", "1.030"] in lines
    assert ["64x2112x7168", name, "11.13", "10.02", "0.900", "-", "-"] in lines
    assert ["M", "=", "64,", "128", "least", "0.400", "0.600", "-", "-"] in lines
    assert ["M", "=", "4096", "least", "1.000", "1.000", "-", "1.030"] in lines


# Measuring, as far as that goes without a GPU


@pytest.fixture(scope="module")
def case():
    return dense.Case.make(GemmProblem(130, 256, 512), "cpu")


@pytest.mark.parametrize("layout", ["row_major", "m_major"])
def test_ours_is_timed_and_judged(case, layout, monkeypatch):
    strides = []
    real = cute_gemm.fp8_gemm_nt

    def spy(lhs, rhs, out):
        strides.append(lhs[1].stride())
        return real(lhs, rhs, out)

    monkeypatch.setattr(cute_gemm, "fp8_gemm_nt", spy)
    found = case.time_ours(timer, "cold", layout, ORIGIN)
    assert strides == [{"row_major": (4, 1), "m_major": (1, 130)}[layout]]
    assert (found["us"], found["median"], found["spread"]) == (10.0, 9.0, 0.5)
    assert (found["peer"], found["scale_layout"], found["device"]) == ("cute_gemm", layout, "NVIDIA H200")
    assert 1e-6 < found["error_worst_tile"] < 2.5e-6


@pytest.mark.parametrize("wrong", ["one element", "nothing written"])
def test_a_wrong_result_gets_no_row(case, wrong, monkeypatch):
    real = cute_gemm.fp8_gemm_nt

    def broken(lhs, rhs, out):
        if wrong == "one element":
            real(lhs, rhs, out)
            out[129, 255] *= 2

    monkeypatch.setattr(cute_gemm, "fp8_gemm_nt", broken)
    with pytest.raises(AssertionError, match=r"tile|element"):
        case.time_ours(timer, "cold", "row_major", ORIGIN)


def test_cublaslt_gives_a_row_or_says_why_not(case, monkeypatch, capsys):
    calls = []

    def scaled_mm(a, b, *, scale_a, scale_b, out_dtype, use_fast_accum):
        if scale_a.dim() and a.shape[0] != 128:
            raise RuntimeError("no such M\nand more")
        calls.append((scale_a.dim(), scale_b.dim(), use_fast_accum))
        return torch.zeros(a.shape[0], b.shape[1], dtype=out_dtype)

    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    found = case.time_cublaslt(timer, "cold", records.FAST, ORIGIN)
    assert (found["peer"], found["config"], found["scale_layout"]) == (records.FAST, None, None)
    assert calls[-1] == (0, 0, True)
    assert case.time_cublaslt(timer, "cold", records.BLOCKWISE, ORIGIN) is None
    assert "blockwise: refused: no such M\n" in capsys.readouterr().out


def test_all_regimes_and_layouts_are_measured_and_calibrated_between(monkeypatch):
    asked = []

    class FakeCase:
        @staticmethod
        def make(problem):
            return FakeCase()

        def time_ours(self, timer, regime, layout, origin):
            asked.append(layout)
            return {"of": layout}

        def time_cublaslt(self, timer, regime, peer, origin):
            asked.append(peer)
            return None if peer == records.BLOCKWISE else {"of": peer}

    monkeypatch.setattr(dense, "Case", FakeCase)
    rows = [each for m in (64, 128) for each in dense.measure(GemmProblem(m, 8, 16), "cold", True, ORIGIN)]
    ours_64 = ["row_major", records.FAST, records.BLOCKWISE]
    assert asked == [*ours_64, "row_major", records.FAST, "m_major", records.BLOCKWISE]
    assert [each["of"] for each in rows] == [each for each in asked if each != records.BLOCKWISE]

    asked.clear()
    list(dense.measure(GemmProblem(4096, 8, 16), "sustained", True, ORIGIN))
    assert asked == ["row_major", records.FAST]
    asked.clear()
    list(dense.measure(GemmProblem(4096, 8, 16), "cold", False, ORIGIN))
    assert asked == ["row_major", "m_major"]


def test_origin_names_what_shapes_the_figures(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(dense, "driver_version", lambda: "580.159")
    origin = dense.describe_origin()
    versions = origin["versions"]
    assert {
        "cute_gemm",
        "torch",
        "nvidia-cutlass-dsl",
        "nvidia-cutlass-dsl-libs-base",
        "tvm-ffi",
    } < versions.keys()
    assert (versions["torch"], versions["cuda driver"]) == (torch.__version__, "580.159")
    assert origin["device"] == "NVIDIA H200"
    assert datetime.date.fromisoformat(origin["date"]).year >= 2026


def test_arguments():
    options = dense.parse_arguments([])
    assert (options.regime, options.shapes, options.calibrate) == ("all", None, True)
    assert options.out == records.BENCHMARKS / "results" / "h200"
    options = dense.parse_arguments(
        ["--regime", "cold", "--shapes", "1x2112x7168", "64x8x16", "--no-calibrate"]
    )
    assert options.shapes == [(1, 2112, 7168), (64, 8, 16)]
    assert not options.calibrate
    with pytest.raises(SystemExit):
        dense.parse_arguments(["--shapes", "64x8"])


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """main() made to run without a GPU, on a shape of the peers' and another; gives what it has compiled."""
    compiled = []
    on_cpu = dense.Case.make
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda: SimpleNamespace(multi_processor_count=78)
    )
    monkeypatch.setattr(dense, "describe_origin", lambda: ORIGIN)
    monkeypatch.setattr(dense, "compile_all", compiled.extend)
    monkeypatch.setattr(dense, "time_cold", timer)
    monkeypatch.setattr(dense, "time_sustained", lambda fn: (fn(), (20.0, None, 0.1))[1])
    monkeypatch.setattr(dense.Case, "make", staticmethod(lambda problem: on_cpu(problem, "cpu")))
    shapes = ["1x576x7168", "8x32x128"]
    monkeypatch.setattr(
        sys, "argv", ["dense.py", "--out", str(tmp_path), "--no-calibrate", "--shapes", *shapes]
    )
    return compiled


def test_whole_run(compiled, tmp_path, capsys):
    """Everything but the GPU: plan, measure, write, compare."""
    assert dense.main() == 0
    problems = [GemmProblem(1, 576, 7168, num_sms=78), GemmProblem(8, 32, 128, num_sms=78)]
    assert compiled == problems * 2
    for regime in ("cold", "sustained"):
        rows = records.read_rows(tmp_path / f"dense_{regime}.jsonl")
        assert [records.shape_of(each) for each in rows] == [(1, 576, 7168), (8, 32, 128)]
        assert {each["regime"] for each in rows} == {regime}
        assert {each["us"] for each in rows} == {{"cold": 10.0, "sustained": 20.0}[regime]}
    out, err = capsys.readouterr()
    table = out.split("\n\n")[1]
    assert table.startswith("cold: ours against DeepGEMM")
    assert "1x576x7168" in table
    assert "8x32x128" not in table
    assert "FAILED" not in out + err


@pytest.mark.parametrize("error", [AssertionError("tile (0, 0) is off"), RuntimeError("no CUPTI")])
def test_a_shape_that_fails_costs_its_own_rows_only(compiled, error, monkeypatch, tmp_path, capsys):
    real = cute_gemm.fp8_gemm_nt

    def broken(lhs, rhs, out):
        if lhs[0].shape[0] == 1:
            raise error
        return real(lhs, rhs, out)

    monkeypatch.setattr(cute_gemm, "fp8_gemm_nt", broken)
    assert dense.main() == 1
    for regime in ("cold", "sustained"):
        rows = records.read_rows(tmp_path / f"dense_{regime}.jsonl")
        assert [records.shape_of(each) for each in rows] == [(8, 32, 128)]
    out, err = capsys.readouterr()
    lines = [f"FAILED {each} 1x576x7168: {type(error).__name__}: {error}" for each in ("cold", "sustained")]
    assert err.splitlines() == lines
    assert all(line in out for line in lines)


@pytest.mark.parametrize(("at", "kept"), [(1, []), (8, [(1, 576, 7168)])])
def test_rows_are_kept_when_a_run_is_cut_off(compiled, at, kept, monkeypatch, tmp_path):
    real = cute_gemm.fp8_gemm_nt

    def interrupted(lhs, rhs, out):
        if lhs[0].shape[0] == at:
            raise KeyboardInterrupt
        return real(lhs, rhs, out)

    monkeypatch.setattr(cute_gemm, "fp8_gemm_nt", interrupted)
    path = tmp_path / "dense_cold.jsonl"
    # What an earlier run left must not be taken for this one's.
    records.write_rows(path, [row(), row()])
    with pytest.raises(KeyboardInterrupt):
        dense.main()
    assert [records.shape_of(each) for each in records.read_rows(path)] == kept


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["dense.py"])
    assert dense.main() == 1
    assert "torch sees none" in capsys.readouterr().err
