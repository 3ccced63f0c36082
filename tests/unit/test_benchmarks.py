"""What the benchmarks do besides timing: rows, ratios, tables, and refusing to time what is wrong."""

import datetime
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import cute_gemm
from cute_gemm import dispatch, heuristics
from cute_gemm.problem import GemmProblem

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
comparison = importlib.import_module("comparison")
dense = importlib.import_module("dense")
candidates = importlib.import_module("candidates")
grouped = importlib.import_module("grouped")
records = importlib.import_module("records")

ORIGIN = {"versions": {"torch": "2.11.0"}, "device": "NVIDIA H200", "date": "2026-11-23"}
SHAPE = (4096, 4096, 7168)


def row(us=200.0, shape=SHAPE, peer=records.OURS, regime="cold", layout="row_major", op="dense_1d2d", **more):
    return records.measurement(
        records.Work.of(op, shape),
        peer,
        us,
        median=us,
        spread=0.01234567,
        regime=regime,
        scale_layout=layout,
        config="256x128_c2x1_s3_bf16",
        error_worst_tile=1.4321e-6,
        origin=ORIGIN | more,
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
        ours = row(peer["us"], records.shape_of(peer), op=peer["op"])
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


def test_peers_shapes_of_grouped_operations():
    contiguous, masked = (records.peer_shapes("cold", op) for op in (records.CONTIGUOUS, records.MASKED))
    assert (len(contiguous), len(masked)) == (8, 16)
    assert {shape[:2] for shape in contiguous} == {(4, 8192), (8, 4096)}
    assert {shape[:2] for shape in masked} == {(6, 20), (6, 1024), (32, 20), (32, 192)}
    # Without padding the rows are the same: peers, which cannot do without it, have the padded row.
    assert records.peer_shapes("cold", records.OFFSETS) == contiguous
    assert len(records.peer_shapes("sustained", records.CONTIGUOUS)) == 2
    assert records.peer_shapes("sustained", records.MASKED) == []


def test_rows_are_drawn_as_the_peers_drew_them():
    """What the rates in the peers' file leave no doubt of; a generator that went on would draw others."""
    totals = {
        op: {shape[:2]: records.total_rows(op, shape) for shape in records.peer_shapes("cold", op)}
        for op in (records.CONTIGUOUS, records.OFFSETS, records.MASKED)
    }
    assert totals == {
        "m_grouped_contiguous": {(4, 8192): 34304, (8, 4096): 34048},
        "m_grouped_offsets": {(4, 8192): 34151, (8, 4096): 33464},
        "m_grouped_masked": {(32, 192): 6559, (6, 1024): 6262, (32, 20): 670, (6, 20): 121},
    }
    for peer in records.read_rows(records.BENCHMARKS / "peers" / "h200.jsonl"):
        if peer["op"] in totals:
            rows = totals[peer["op"]][records.shape_of(peer)[:2]]
            assert peer["tflops"] * 1e6 * peer["us"] / (2 * peer["n"] * peer["k"]) == pytest.approx(
                rows, rel=0.05 / peer["tflops"] + 0.005 / peer["us"]
            )


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


GROUPED_SHAPE = (4, 8192, 6144, 7168)


def grouped_row(us=2000.0, op="m_grouped_contiguous", shape=GROUPED_SHAPE, **more):
    return row(us, shape, op=op, **more)


def test_grouped_ratios():
    calibration = {"op": "dense_1d2d", "m": 4096, "n": 4096, "k": 7168, "us": 156.88 * 1.1}
    rows = [grouped_row(calibration=calibration), grouped_row(1900.0, layout="m_major"), row()]
    (found,) = comparison.compare(rows, "cold", records.CONTIGUOUS)
    assert found.shape == GROUPED_SHAPE
    assert found.ratio == pytest.approx(2079.18 / 2000.0)
    assert found.scaled_ratio == pytest.approx(2079.18 / 2000.0 * 1.1)
    assert found.row_major_cost == pytest.approx(2000.0 / 1900.0)
    assert [each.shape for each in comparison.compare(rows, "cold")] == [SHAPE]
    assert comparison.compare(rows, "cold", records.OFFSETS) == []
    # Groups without padding are compared with what the peer needs instead.
    (found,) = comparison.compare([grouped_row(1950.0, "m_grouped_offsets")], "cold", records.OFFSETS)
    assert found.ratio == pytest.approx(2079.18 / 1950.0)
    assert found.card is None


def test_grouped_operations_are_told_apart():
    with pytest.raises(ValueError, match="two cold m_grouped_contiguous rows of cute_gemm"):
        comparison.compare([grouped_row(), grouped_row()], "cold", records.CONTIGUOUS)
    rows = [grouped_row(), grouped_row(op="m_grouped_offsets")]
    assert len(comparison.compare(rows, "cold", records.CONTIGUOUS)) == 1


def test_grouped_table():
    rows = [
        grouped_row(2079.18 / 0.9),
        grouped_row(1166.72 / 0.4, shape=(4, 8192, 7168, 3072)),
        grouped_row(864.67, shape=(8, 4096, 4096, 4096)),
    ]
    table = comparison.text_table(comparison.compare(rows, "cold", records.CONTIGUOUS), "cold")
    lines = [line.split() for line in table.splitlines()]
    name = "256x128_c2x1_s3_bf16"
    assert ["8x4096x4096x4096", name, "864.67", "864.67", "1.000", "-", "-"] in lines
    assert ["4", "x", "8192", "least", "0.400", "0.600", "-", "-"] in lines
    assert ["all", "least", "0.400", f"{(0.9 * 0.4) ** (1 / 3):.3f}", "-", "-"] in lines


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


# Grouped operations. Shapes as small as the CPU needs them stand in for the peers'.

SMALL = {"contiguous": (4, 100, 136, 272), "masked": (3, 20, 136, 272)}
OPS = ["m_grouped_contiguous", "m_grouped_offsets", "m_grouped_masked"]


@pytest.fixture
def small_grouped(monkeypatch):
    """Everything that needs a GPU replaced, and small shapes; gives the calls that were timed cold."""
    timed = []

    def time_cold(call, repeats=20):
        call()
        timed.append(call)
        return 10.0 + len(timed), 9.0 + len(timed), 0.2

    on_cpu = grouped.Case.make
    small = {(regime, op): [SMALL["contiguous"]] for regime in ("cold", "sustained") for op in OPS[:2]}
    small["cold", "m_grouped_masked"] = [SMALL["masked"]]
    monkeypatch.setattr(records, "peer_shapes", lambda regime, op="": small.get((regime, op), []))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda: SimpleNamespace(multi_processor_count=78)
    )
    monkeypatch.setattr(grouped, "MASKED_CAPACITY", 40)
    monkeypatch.setattr(grouped.Case, "make", staticmethod(lambda op, shape: on_cpu(op, shape, "cpu")))
    monkeypatch.setattr(grouped, "cublaslt_call", lambda shape: lambda: None)
    monkeypatch.setattr(grouped, "describe_origin", lambda: ORIGIN)
    monkeypatch.setattr(grouped, "compile_configs", lambda configs: None)
    monkeypatch.setattr(grouped, "time_sustained", lambda fn: (fn(), (20.0, None, 0.1))[1])
    for module in (grouped, candidates):
        monkeypatch.setattr(module, "time_cold", time_cold)
    return timed


@pytest.mark.parametrize("op", OPS)
def test_problems_are_those_that_are_launched(op, monkeypatch):
    """A row names the kernel that its problem selects: it had better be the one that ran."""
    asked = []

    def launcher(*arguments):
        asked.append(arguments)
        return (lambda *arguments: None), 132

    monkeypatch.setattr(dispatch, "_launcher", launcher)
    shape = SMALL["masked" if op == "m_grouped_masked" else "contiguous"]
    monkeypatch.setattr(grouped, "MASKED_CAPACITY", 40)
    case = grouped.Case.make(op, shape, "cpu")
    launch = getattr(dispatch, op.replace("m_grouped", "m_grouped_fp8_gemm_nt"))
    more = (1,) if op == "m_grouped_offsets" else (20,) if op == "m_grouped_masked" else ()
    launch(*case.inputs.lhs, *case.inputs.rhs, case.poisoned_out(), case.inputs.index, *more)
    problem = records.problem_of(op, shape)
    assert asked == [(problem.layout, problem.groups, problem.m, problem.n, problem.k, torch.bfloat16, -1)]


@pytest.mark.parametrize("op", OPS)
def test_rows_of_no_group_are_numbers(op, small_grouped):
    case = grouped.Case.make(op, SMALL["masked" if op == "m_grouped_masked" else "contiguous"])
    a, sa = case.inputs.lhs
    values = a.float()
    assert values.isfinite().all()
    assert (values.abs().sum(-1) > 0).all()
    assert sa.isfinite().all()


def test_grouped_rows(small_grouped):
    shape = SMALL["contiguous"]
    rows = list(grouped.measure(OPS[:2], shape, "cold", True, ORIGIN))
    assert len(small_grouped) == 5
    assert [(each["op"], each["scale_layout"]) for each in rows] == [
        (op, layout) for op in OPS[:2] for layout in ("row_major", "m_major")
    ]
    assert [each["us"] for each in rows] == [11.0, 12.0, 13.0, 14.0]
    assert [each["median"] for each in rows] == [10.0, 11.0, 12.0, 13.0]
    assert {each["spread"] for each in rows} == {0.2}
    for each in rows:
        assert records.shape_of(each) == shape
        assert each["calibration"] == {
            "op": "dense_1d2d",
            "m": 64,
            "n": 7168,
            "k": 16384,
            "peer": records.FAST,
            "us": 15.0,
        }
        assert 1e-6 < each["error_worst_tile"] < 2.5e-6
        problem = records.problem_of(each["op"], shape, 78)
        assert each["config"] == heuristics.best(problem).name
        assert each["config"].endswith(each["op"].removeprefix("m_grouped"))
    (masked, _) = grouped.measure(OPS[2:], SMALL["masked"], "cold", False, ORIGIN)
    assert len(small_grouped) == 5 + 2
    assert "calibration" not in masked
    (sustained,) = grouped.measure(OPS[:1], shape, "sustained", False, ORIGIN)
    assert (sustained["us"], sustained["median"], sustained["regime"]) == (20.0, None, "sustained")


@pytest.mark.parametrize("wrong", ["another expert's", "padding written", "M-major misread"])
@pytest.mark.parametrize("op", OPS)
def test_a_wrong_grouped_result_gets_no_row(op, wrong, small_grouped, monkeypatch):
    name = op.replace("m_grouped", "m_grouped_fp8_gemm_nt")
    real = getattr(cute_gemm, name)

    def broken(lhs, rhs, index, *rest):
        (a, sa), (b, sb), out = lhs, rhs, rest[-1]
        if wrong == "M-major misread" and sa.stride(-1) != 1:
            sa = sa.roll(1, 0)
        real((a, sa), (b, sb), index, *rest)
        if wrong == "another expert's":
            real((a, sa), (b.view(torch.uint8).roll(1, 0).view(b.dtype), sb), index, *rest)
        elif wrong == "padding written":
            out[..., -1, :] = torch.where(out[..., -1, :].isnan(), 0, out[..., -1, :])

    monkeypatch.setattr(cute_gemm, name, broken)
    shape = SMALL["masked" if op == "m_grouped_masked" else "contiguous"]
    rows = grouped.measure([op], shape, "cold", False, ORIGIN)
    if wrong == "M-major misread":
        assert next(rows)["scale_layout"] == "row_major"
    if wrong == "padding written" and op == "m_grouped_offsets":
        assert len(list(rows)) == 2  # there is none
        return
    with pytest.raises(AssertionError, match=r"group|row"):
        next(rows)


def test_whole_grouped_run(small_grouped, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["grouped.py", "--out", str(tmp_path)])
    monkeypatch.setattr(
        records,
        "peer_times",
        lambda regime, op="": {
            "DeepGEMM": dict.fromkeys(SMALL.values(), 22.0),
            records.FAST: {(64, 7168, 16384): 30.0},
        },
    )
    assert grouped.main() == 0
    cold = records.read_rows(tmp_path / "grouped_cold.jsonl")
    assert [(each["op"], each["scale_layout"]) for each in cold] == [
        (op, layout) for op in OPS for layout in ("row_major", "m_major")
    ]
    sustained = records.read_rows(tmp_path / "grouped_sustained.jsonl")
    assert [(each["op"], each["scale_layout"]) for each in sustained] == [(op, "row_major") for op in OPS[:2]]
    out, err = capsys.readouterr()
    beside = "offsets, relative to contiguous"
    titles = [f"cold {what}" for what in [*OPS, beside]]
    titles += [f"sustained {what}" for what in [*OPS[:2], beside]]
    # The times of the stand-ins: 11 and 13 us cold, 20 us sustained.
    assert f"cold {beside}: 0.846, least 0.846" in out
    assert f"sustained {beside}: 1.000, least 1.000" in out
    assert [part.split(":")[0] for part in out.split("\n\n")[1:]] == titles
    assert "4x100x136x272" in out
    assert "FAILED" not in out + err


def test_grouped_failures_cost_their_own_rows_only(small_grouped, monkeypatch, tmp_path, capsys):
    def broken(*arguments):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(cute_gemm, "m_grouped_fp8_gemm_nt_offsets", broken)
    monkeypatch.setattr(sys, "argv", ["grouped.py", "--regime", "cold", "--out", str(tmp_path)])
    assert grouped.main() == 1
    rows = records.read_rows(tmp_path / "grouped_cold.jsonl")
    assert {each["op"] for each in rows} == {"m_grouped_masked"}
    assert "FAILED cold 4x100x136x272: RuntimeError: no such kernel" in capsys.readouterr().err


def test_grouped_benchmark_without_a_gpu_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["grouped.py"])
    assert grouped.main() == 1
    assert "torch sees none" in capsys.readouterr().err


# Candidates


@pytest.mark.parametrize("op", OPS)
def test_candidates_of_grouped_operations(op, small_grouped, monkeypatch, tmp_path):
    """All are timed, all must agree, and what comes out is what the cost model reads."""
    shape = SMALL["masked" if op == "m_grouped_masked" else "contiguous"]
    launched, wrong = [], []

    def instance(config):
        def launch(a, sa, b, sb, out, num_sms, index, *alignment):
            launched.append(config)
            assert num_sms == 78
            assert alignment == ((1,) if op == "m_grouped_offsets" else ())
            rest = (20, out) if op == "m_grouped_masked" else (out,)
            operation = getattr(cute_gemm, op.replace("m_grouped", "m_grouped_fp8_gemm_nt"))
            operation((a, sa), (b, sb), index, *rest)
            if config.name in wrong:
                out.view(torch.int16)[..., 0, 0] += 1

        return launch

    monkeypatch.setattr(dispatch, "instance", instance)
    monkeypatch.setattr(candidates, "compile_configs", lambda configs: None)
    text = "x".join(map(str, shape))
    arguments = ["candidates.py", "--op", op, "--shapes", text, "--out", str(tmp_path / "rows.jsonl")]
    monkeypatch.setattr(sys, "argv", arguments)
    assert candidates.main() == 0
    suitable = [choice.config for choice in heuristics.rank(records.problem_of(op, shape, 78))]
    assert set(launched) == set(suitable)
    assert len(small_grouped) == len(suitable) + 1
    rows = records.read_rows(tmp_path / "rows.jsonl")
    assert len(rows) == len(suitable)
    assert {records.shape_of(each) for each in rows} == {shape}
    assert {each["op"] for each in rows} == {op}
    assert rows[0]["cublaslt_us"] == len(suitable) + 11
    assert [each["us"] for each in rows] == [11 + i for i in range(len(rows))]

    wrong.append(suitable[-1].name)
    with pytest.raises(AssertionError, match=f"{suitable[-1].name} differs from {suitable[0].name}"):
        candidates.main()
