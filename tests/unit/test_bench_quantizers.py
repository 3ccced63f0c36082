"""The suite of quantisers, as far as it goes without a GPU: plan, operands, judges, peers, rows, pictures."""

import math
import sys
from types import ModuleType

import pytest
import torch
from bench_rows import ORIGIN, StandInTimer, kernels_interpreted, stand_in_gpu, timed_row
from bench_rows import row as product_row
from rich.console import Console
from stand_ins import card_of

from cute_gemm import cli
from cute_gemm.bench import changes, results, shares, tables
from cute_gemm.bench.peers import QUANTIZED_LIMIT
from cute_gemm.bench.peers.registry import QUANTIZERS, split_available
from cute_gemm.bench.rows import objection
from cute_gemm.bench.run import Bench, kernels_of, run_trials
from cute_gemm.bench.suite import FEW_ROWS, Trial, plan
from cute_gemm.measure import layers, quantizing, records
from cute_gemm.measure.calls import Call
from cute_gemm.measure.errors import CommandError
from cute_gemm.measure.quantizing import FORMS, QuantizerCase, kernel_of
from cute_gemm.measure.work import Work
from cute_gemm.plan.quantizer import FEW_ELEMENTS
from cute_gemm.runtime import quantizer_builder, quantizers, warmup

SHAPE = (144, 272)
every_op = pytest.mark.parametrize("op", records.QUANTIZERS)


def row(us=10.0, op=records.ROWS, shape=(4096, 7168), peer=records.OURS, regime="cold", **more):
    made = timed_row(
        op,
        shape,
        us,
        peer,
        regime,
        scale_layout="row_major",
        config="quantize_1x128_bf16_x2",
        error=3.4e-4,
    )
    return made | more


class FakePeer:
    """Has right results, or what it is made with; of any label."""

    regimes = ("cold", "chain")

    def __init__(self, name, run=None):
        self.name, self.run = name, run

    def calls(self, case):
        read = case.own_sources()
        run = self.run or (lambda: case.form.formula(**read))
        return [Call(self.name, run, lambda found: 0.0 if self.run else case.error(read, found))]


def bench(*peers, timer=None, lines=None):
    timer = timer or StandInTimer()
    return Bench(
        dict.fromkeys(("cold", "chain"), timer),
        (),
        ORIGIN,
        card_of(132),
        device="cpu",
        say=[].append if lines is None else lines.append,
        quantizers=peers,
        host_time=lambda call: 11.7,
    )


# Plans


def test_every_form_is_planned_at_sizes_of_models():
    trials = plan(("quantize",), ("cold", "chain", "sustained"))
    cold, chain = ([each for each in trials if each.regime == regime] for regime in ("cold", "chain"))
    assert len(cold) + len(chain) == len(trials)
    assert {each.suite for each in trials} == {"quantize"}
    assert {each.ops for each in cold} == {(op,) for op in records.QUANTIZERS}
    assert {each.shape[0] for each in cold} >= {1, 128, 4096, 16384}
    assert {each.shape[1] for each in cold} >= {7168, 4096, 2048, 768}
    assert {each.shape for each in chain} == {each.shape for each in cold if each.shape[0] <= FEW_ROWS}
    # No kernel has a single row both ways.
    assert {each.shape[0] for each in cold if each.ops == (records.BOTH_WAYS,)} == {
        each.shape[0] for each in cold if each.shape[0] % 16 == 0
    }


def test_shapes_and_operations_choose():
    shapes = [(64, 2112, 7168), (64, 7168), (4096, 2048)]
    trials = plan(("dense", "grouped", "quantize"), ("cold", "chain"), [records.SWIGLU], shapes)
    assert [(each.suite, each.regime, each.shape) for each in trials] == [
        ("dense", "cold", (64, 2112, 7168)),
        ("dense", "chain", (64, 2112, 7168)),
        ("quantize", "cold", (64, 7168)),
        ("quantize", "cold", (4096, 2048)),
        ("quantize", "chain", (64, 7168)),
    ]
    # Rows that no CTA holds have no kernel.
    assert plan(("quantize",), ("cold",), shapes=[(64, 32768)])
    with pytest.raises(CommandError, match="nothing to measure"):
        plan(("quantize",), ("cold",), [records.NORMED, records.BOTH_WAYS], [(1, 32768)])
    with pytest.raises(CommandError, match=r"64x2112x7168.* of the suite quantize .*quantisers' MxK"):
        plan(("quantize",), ("cold",), shapes=shapes[:1])
    with pytest.raises(CommandError, match=r"4096x2048.* with at most 128 rows in a chain"):
        plan(("quantize",), ("chain",), shapes=shapes[2:])
    for shape, why in [
        ((64, 100), "64x100: K = 100 is not a positive multiple of 16"),
        ((0, 128), "numbers start at 1"),
        ((2**31, 16), "more than"),
    ]:
        with pytest.raises(CommandError, match=why):
            plan(("quantize",), ("cold",), shapes=[shape])


# Operands, and who judges


@pytest.mark.parametrize("shape", [SHAPE, (1, 16), (16, 128)])
@every_op
def test_ours_is_judged_right(op, shape):
    case = QuantizerCase.make(op, shape, "cpu")
    for layout in ("row_major", "m_major"):
        call = case.ours(layout)
        # As often as a timer calls it: a residual then holds more and more.
        for _ in range(3):
            call()
        assert 0 < call.error() < QUANTIZED_LIMIT


@every_op
def test_what_was_never_written_is_wrong(op, monkeypatch):
    case = QuantizerCase.make(op, SHAPE, "cpu")
    call = case.ours("row_major")
    real = quantizing.formula.quantize_rows if op != records.BLOCKS else quantizing.formula.quantize_blocks

    def last_row_left(values, q, s, power, *more):
        real(values[:-1], q[:-1], s[: -(-len(values[:-1]) // (128 if op == records.BLOCKS else 1))], power)
        if op == records.BOTH_WAYS:
            q[-1] = torch.nan

    monkeypatch.setattr(quantizing.formula, real.__name__, last_row_left)
    call()
    monkeypatch.undo()
    with pytest.raises(AssertionError, match="formula"):
        call.error()


@every_op
def test_a_single_element_is_seen(op):
    call = QuantizerCase.make(op, SHAPE, "cpu").ours("row_major")
    call()
    q = call.result[0]
    assert call.error()
    q[3, 5] = -q[3, 5].float() if q[3, 5].float() else 1.0
    with pytest.raises(AssertionError, match="formula"):
        call.error()


@pytest.mark.parametrize("which", range(2))
def test_a_scale_is_seen(which):
    for op in (records.SWIGLU, records.BOTH_WAYS):
        call = QuantizerCase.make(op, SHAPE, "cpu").ours("row_major")
        call()
        found = call.result[1::2]
        found[which % len(found)][0, 0] *= 1.001
        with pytest.raises(AssertionError, match="formula"):
            call.error()


def test_a_few_neighbours_are_right_where_functions_are_approximated():
    call = QuantizerCase.make(records.SWIGLU, SHAPE, "cpu").ours("row_major")
    call()
    bits = call.result[0].view(torch.uint8)

    def to_neighbours(rows):
        # What is next to 448 is NaN.
        bits[rows, 0] ^= (bits[rows, 0] & 0x7F) != 0x7E

    to_neighbours(slice(5))
    assert call.error() < QUANTIZED_LIMIT
    to_neighbours(slice(5, None))
    with pytest.raises(AssertionError, match="differ"):
        call.error()


def test_calls_of_a_sum_have_residuals_of_their_own():
    case = QuantizerCase.make(records.SUMMED, SHAPE, "cpu")
    before = case.sources["residual"].clone()
    for call in (case.ours("row_major"), *QUANTIZERS["torch"].calls(case)):
        call()
        call()
        assert call.error() < QUANTIZED_LIMIT
    assert torch.equal(case.sources["residual"], before)


@pytest.mark.parametrize("shape", [(16, 272), (4096, 1024), (FEW_ELEMENTS // 16, 16)])
@every_op
def test_a_row_names_the_kernel_that_is_launched(op, shape, monkeypatch):
    launched = []
    monkeypatch.setattr(quantizers, "may_launch", lambda *_: True)
    monkeypatch.setattr(quantizers, "launch", lambda key, config, *_: bool(launched.append(config)))
    call = QuantizerCase.make(op, shape, "cpu").ours("row_major")
    call()
    assert launched == [kernel_of(op, shape)]
    assert call.config == launched[0].name


@every_op
def test_bytes_are_those_of_the_tensors(op):
    case = QuantizerCase.make(op, (130, 272), "cpu")
    made = case.form.formula(**case.own_sources())
    moved = sum(each.nbytes for each in (*case.sources.values(), *made))
    # The sum is written where the residual was read.
    moved += case.sources["residual"].nbytes if op == records.SUMMED else 0
    work = Work.of(op, case.shape)
    assert (work.bytes_moved, work.flops) == (moved, 0)


# Measuring


def test_rows_say_how_near_to_a_copy_they_are():
    timer = StandInTimer()
    peers = FakePeer(records.COPY, lambda: torch.zeros(1)), FakePeer(records.TORCH)
    rows = list(bench(*peers, timer=timer).measure(Trial("quantize", "cold", (records.ROWS,), SHAPE)))
    assert [(each["peer"], each["scale_layout"], each["us"]) for each in rows] == [
        ("cute_gemm", "row_major", 10.0),
        ("cute_gemm", "m_major", 11.0),
        ("copy", None, 12.0),
        ("torch", None, 13.0),
    ]
    assert [each.get("copy_share") for each in rows] == [1.2, 1.0909, None, None]
    assert [chain.first.peer for chain in timer.order] == ["cute_gemm", "cute_gemm", "copy", "torch"] * 2
    ours = rows[0]
    assert (ours["m"], ours["k"], ours["bytes"]) == (*SHAPE, Work.of(records.ROWS, SHAPE).bytes_moved)
    assert ours["gb_per_s"] == round(ours["bytes"] / 10.0 * 1e-3, 1)
    assert ours["limit_us"] == pytest.approx(ours["bytes"] / 4.8e6, abs=1e-3)
    assert ours["config"] == "quantize_1x128_bf16_x1"
    assert 3e-4 < ours["error_worst_tile"] < QUANTIZED_LIMIT
    # Here nothing says what it would be without the flush.
    assert {"tflops", "layers", "host_us", "over_empty_us"}.isdisjoint(ours)
    assert all(objection(each) == "" for each in rows)


def test_few_rows_are_timed_over_an_empty_kernel_and_on_the_host():
    peers = FakePeer(records.EMPTY, lambda: torch.zeros(1)), FakePeer(records.COPY, lambda: torch.zeros(1))
    trial = Trial("quantize", "chain", (records.SWIGLU,), (16, 256))
    rows = list(bench(*peers).measure(trial))
    count = layers.QUANTIZER_CALLS
    assert [(each["peer"], each["layers"]) for each in rows] == [
        ("cute_gemm", count),
        (records.EMPTY, count),
        (records.COPY, count),
    ]
    ours = rows[0]
    # 10 and 11 us of all calls together.
    assert ours["us"] == 10 / count
    assert ours["over_empty_us"] == pytest.approx(-1 / count)
    assert (ours["host_us"], ours["host_mm_us"]) == (11.7, 11.7)
    # What it reads is in L2, which no data sheet's limit is of.
    assert "limit_us" not in ours
    assert all(objection(each) == "" for each in rows)


def test_a_chain_is_called_as_a_user_calls_it():
    """What would be set around it would be in the host's time."""
    case = QuantizerCase.make(records.ROWS, SHAPE, "cpu")
    assert not hasattr(case.ours("row_major").run, "__wrapped__")
    assert hasattr(case.ours("row_major", False).run, "__wrapped__")


def test_a_chain_repeats_one_call_on_the_same_tensors(monkeypatch):
    seen, real = [], quantizing.cute_gemm.quantize_128x128

    def spy(x, *, out, scales_out):
        seen.append((x.data_ptr(), out.data_ptr(), quantizing.cute_gemm.settings.current().pdl))
        return real(x, out=out, scales_out=scales_out)

    monkeypatch.setattr(quantizing.cute_gemm, "quantize_128x128", spy)
    monkeypatch.setattr(layers, "QUANTIZER_CALLS", 3)
    for regime, count, pdl in (("chain", 3, None), ("cold", 1, False)):
        seen.clear()
        list(bench().measure(Trial("quantize", regime, (records.BLOCKS,), SHAPE)))
        # The stand-in calls twice.
        assert len(seen) == 2 * count
        assert len(set(seen)) == 1
        assert seen[0][2] is pdl


def test_wrong_results_of_ours_have_no_row_and_of_peers_are_marked(monkeypatch):
    wrong = FakePeer("fake")
    wrong.calls = lambda case: [
        Call("fake", lambda: torch.zeros(1), lambda _: (_ for _ in ()).throw(AssertionError("no")))
    ]
    trial = Trial("quantize", "cold", (records.ROWS,), SHAPE)
    (*_, found) = bench(wrong).measure(trial)
    assert (found["peer"], found["wrong"], found["error_worst_tile"]) == ("fake", "no", None)
    # A copy that is none is no bar.
    wrong_copy = FakePeer(records.COPY)
    wrong_copy.calls = lambda case: [Call(records.COPY, lambda: torch.zeros(1), wrong.calls(case)[0].judge)]
    assert "copy_share" not in next(iter(bench(wrong_copy).measure(trial)))

    real = quantizing.cute_gemm.quantize_1x128

    def broken(x, *, out, scales_out):
        real(x, out=out, scales_out=scales_out)
        scales_out[0, 0] = 7
        return out, scales_out

    monkeypatch.setattr(quantizing.cute_gemm, "quantize_1x128", broken)
    rows = bench(FakePeer("fake")).measure(trial)
    assert next(rows)["peer"] == "fake"
    with pytest.raises(AssertionError, match=r"row_major\): .*formula.*m_major\): .*formula"):
        next(rows)


def test_kernels_are_compiled_before():
    trial = Trial("quantize", "cold", (records.NORMED,), (64, 7168))
    (kernel,) = kernels_of(trial, card_of(132))
    assert kernel.name == "quantize_normed_bf16_224x4"


def test_a_worker_compiles_either_kind(monkeypatch):
    asked = []
    monkeypatch.setattr(warmup.builder, "instance", lambda config: asked.append(("product", config)))
    monkeypatch.setattr(quantizer_builder, "instance", lambda config: asked.append(("quantizer", config)))
    kernel = kernel_of(records.ROWS, SHAPE)
    warmup._compile_one(None, kernel)
    assert asked == [("quantizer", kernel)]


# Peers


def test_peers_of_quantisers_say_why_they_are_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(torch.version, "cuda", None)
    peers, notes = split_available(("cublas", *QUANTIZERS), QUANTIZERS)
    assert peers == []
    assert notes == [
        "copy is not timed: this torch is built without CUDA",
        "torch is not timed: this torch is built without CUDA",
        "torch_compile is not timed: this torch is built without CUDA",
        "triton is not timed: the package triton is not installed",
        "empty is not timed: this torch is built without CUDA",
    ]


@every_op
def test_a_copy_moves_as_many_bytes_and_the_faster_one_counts(op):
    case = QuantizerCase.make(op, (130, 272), "cpu")
    calls = QUANTIZERS["copy"].calls(case)
    assert [call.config for call in calls] == ["copy_", "neg"]
    for call in calls:
        call()
        call.poison()
        call()
        assert call.error() == 0.0
        moved = 2 * call.result.nbytes
        assert moved <= Work.of(op, case.shape).bytes_moved < moved + 8
        call.result[-1] += 1
        with pytest.raises(AssertionError, match="differs"):
            call.error()


@pytest.mark.parametrize("name", ["torch", "torch_compile"])
@every_op
def test_torch_runs_the_formula(op, name, monkeypatch):
    compiled = []

    def compile(function, **options):
        compiled.append((function, options))
        return function

    monkeypatch.setattr(torch, "compile", compile)
    case = QuantizerCase.make(op, SHAPE, "cpu")
    (call,) = QUANTIZERS[name].calls(case)
    call()
    assert call.error() < QUANTIZED_LIMIT
    assert [function for function, _ in compiled] == ([FORMS[op].formula] if name == "torch_compile" else [])
    call.result[1][0, 0] *= 4
    with pytest.raises(AssertionError, match="worst tile"):
        call.error()


def test_formulas_are_compiled_each_by_itself():
    """Dynamo keeps what it compiled of a function's code, and not too often."""
    assert len({form.formula.__code__ for form in FORMS.values()}) == len(FORMS)


def test_triton_is_asked_for_what_it_has(monkeypatch):
    asked = []
    kernels = ModuleType("triton_quantizers")

    def quantize(x, rows, q, s):
        asked.append((tuple(x.shape), rows is not None))
        wanted = QuantizerCase.make(op, SHAPE, "cpu")
        made = wanted.form.formula(**wanted.sources)
        q.copy_(made[0])
        s.copy_(made[1])

    kernels.quantize = quantize
    monkeypatch.setitem(sys.modules, "cute_gemm.bench.peers.triton_quantizers", kernels)
    monkeypatch.setattr("cute_gemm.bench.peers.triton_quantizers", kernels, raising=False)
    for op in (records.ROWS, records.GATHERED, records.SWIGLU):
        (call,) = QUANTIZERS["triton"].calls(QuantizerCase.make(op, SHAPE, "cpu"))
        call()
        assert call.error() < QUANTIZED_LIMIT
    assert asked == [((144, 272), False), ((144, 272), True), ((144, 544), False)]
    for op in set(records.QUANTIZERS) - {records.ROWS, records.GATHERED, records.SWIGLU}:
        assert QUANTIZERS["triton"].calls(QuantizerCase.make(op, SHAPE, "cpu")) == []


# Tables, pictures, and what the terminal says


def measured():
    """Rows of two shapes cold, and one in a chain."""
    few = {"shape": (16, 7168), "regime": "chain"}
    return [
        row(25.0, copy_share=0.92),
        row(26.0, scale_layout="m_major", copy_share=0.885),
        row(23.0, peer=records.COPY),
        row(500.0, peer=records.TORCH),
        row(40.0, peer=records.TRITON, wrong="beyond its limit"),
        row(9.0, shape=(4096, 2048), copy_share=0.8),
        row(1.9, **few, copy_share=1.3, over_empty_us=0.55, host_us=11.7, host_mm_us=14.1, layers=200),
        row(1.35, peer=records.EMPTY, **few),
    ]


def test_tables_have_what_quantisers_are_judged_by():
    text = tables.render(measured())
    cold, chain = (part.splitlines() for part in text.split("\n## ")[1:])
    assert cold[0] == "Quantising 1x128: cold L2, one call at a time"
    header = (
        "| M | K | kernel | us | spread | M-major us | GB/s | limit us | of it | of a copy | copy | torch |"
    )
    assert cold[4] == f"{header} Triton |"
    assert cold[6] == (
        "| 4096 | 7168 | `quantize_1x128_bf16_x2` | 25.00 | 1.0% | 26.00 | 3560 | 18.54 | 74% | 0.92 |"
        " 23.00 (0.92x) | 500.00 (20.00x) | **wrong** 40.00 (1.60x) |"
    )
    assert chain[0] == "Quantising 1x128: chain of calls in a CUDA graph, operands in L2"
    assert chain[6].startswith("| 16 | 7168 | `quantize_1x128_bf16_x2` | 1.90 | 1.0% |")
    assert "| 1.30 | 0.55 | 11.70 | 14.10 |" in chain[6]
    assert "limit" not in chain[4]


def test_the_terminal_is_told_the_share_of_a_copy():
    assert shares.summary(measured()).splitlines() == [
        "cold quantisers of 29360128 elements or more, share of a copy's speed: geometric mean 0.902, least"
        " 0.885; below 0.9: 1 of 2",
        "  quantize_1x128 4096x7168, m_major scales: 0.885",
        "quantisers of few rows, time over an empty kernel: at most 0.55 us (quantize_1x128 16x7168,"
        " row_major scales)",
        "their host time over that of a small torch.mm: geometric mean 0.83, greatest 0.83",
    ]
    assert shares.summary([product_row()]) == ""


def test_quantisers_are_compared_from_run_to_run():
    old = measured()
    new = [each | {"us": each["us"] * 1.1, "median": each["median"] * 1.1} for each in old]
    found = changes.compare(old, new)
    assert {(each.op, each.shape, each.regime, each.scale_layout) for each in found} == {
        ("quantize_1x128", (4096, 7168), "cold", "row_major"),
        ("quantize_1x128", (4096, 7168), "cold", "m_major"),
        ("quantize_1x128", (4096, 2048), "cold", "row_major"),
        ("quantize_1x128", (16, 7168), "chain", "row_major"),
    }
    assert all(each.is_regression(0.02) for each in found)
    console = Console(width=200)
    with console.capture() as text:
        console.print(changes.table(found, 0.02))
    assert "4096x7168" in text.get()


def test_pictures_show_peers_of_quantisers():
    plots = pytest.importorskip("cute_gemm.bench.plots", reason="needs matplotlib")
    figures = dict(plots._figures(measured()))
    assert list(figures) == ["speedup_quantize_1x128_cold", "quantizers_cold", "quantizers_chain"]
    titles = [
        " ".join(axes.get_title().split("\n")[:-1]) for axes in figures["speedup_quantize_1x128_cold"].axes
    ]
    assert titles == ["copy", "torch"]


def test_pictures_show_what_quantisers_take_over_the_least():
    part_plots = pytest.importorskip("cute_gemm.bench.part_plots", reason="needs matplotlib")
    rows = [*measured(), row(2.0, records.BLOCKS, (16, 2048), copy_share=0.5)]
    assert [part_plots.has_quantizers(rows, regime) for regime in records.ALL_REGIMES] == [True, True, False]
    assert not part_plots.has_quantizers(measured()[2:5], "cold")
    cold, chain = (part_plots.quantizers(rows, regime) for regime in ("cold", "chain"))
    panels = [axes for axes in cold.axes if axes.axison]
    assert [axes.get_title() for axes in panels] == ["K = 7168", "K = 2048"]
    curves = [{line.get_label(): line.get_xydata().tolist() for line in axes.lines} for axes in panels]
    assert curves == [
        {"1x128": [[4096, 0.92]], "128x128": []},
        {"1x128": [[4096, 0.8]], "128x128": [[16, 0.5]]},
    ]
    (axes,) = chain.axes
    assert axes.lines[0].get_xydata().tolist() == [[16, 0.55]]
    assert chain.get_supylabel() == "us over an empty kernel"


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"copy_share": math.nan}, "copy_share is not a share"),
        ({"over_empty_us": math.inf}, "over_empty_us is not microseconds"),
        ({"host_us": 0}, "host_us is not a time"),
        ({"bytes": -1}, "bytes is not a number of bytes"),
        ({"k": 0}, "k is not a whole number"),
    ],
)
def test_rows_of_quantisers_that_are_none_are_refused(more, complaint):
    assert complaint in objection(row() | more)
    assert objection({key: value for key, value in row().items() if key != "bytes"}) == "it lacks bytes"
    assert objection(row()) == ""


# The command


@pytest.fixture
def on_gpu(monkeypatch):
    """Makes everything run on the CPU as if it were a Hopper GPU; gives the kernels that were compiled."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(layers, "QUANTIZER_CALLS", 2)
    return stand_in_gpu(monkeypatch, 132)


@pytest.mark.thorough
def test_whole_run(on_gpu, tmp_path, capsys):
    shapes = ["16x128", "144x272"]
    arguments = ["bench", "--suite", "quantize", "--out", str(tmp_path), "--peers", "copy,torch"]
    assert cli.main([*arguments, "--shapes", *shapes]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == [
        "quantize_chain.jsonl",
        "quantize_cold.jsonl",
    ]
    rows = results.read_results(tmp_path)
    ours = [each for each in rows if each["peer"] == records.OURS]
    assert {each["op"] for each in ours} == set(records.QUANTIZERS)
    assert all("copy_share" in each for each in ours)
    assert {each["peer"] for each in rows} == {records.OURS, records.COPY, records.TORCH}
    assert {each.name for each in on_gpu} == {each["config"] for each in ours}
    assert "quantize_1x128_bf16_x1 row_major: 10.00 us, spread 20.0%, 1 GB/s, 1.20 of a copy's speed" in out
    assert "their host time over that of a small torch.mm: geometric mean 1.00" in out
    assert "## Quantising 128x128: cold L2" in (tmp_path / "tables.md").read_text()
    # What it wrote it reads.
    assert cli.main(["bench", "--compare", str(tmp_path), str(tmp_path)]) == 0
    assert cli.main(["bench", "--plot", str(tmp_path)]) == 0


def test_only_peers_of_what_is_measured_are_looked_for(on_gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    arguments = ["bench", "--out", str(tmp_path), "--regime", "cold", "--peers", "triton,deep_gemm"]
    missing = [
        f"{name} is not timed: the package {name} is not installed" for name in ("triton", "deep_gemm")
    ]
    idle = "is not timed: it has no part in what is measured (docs/benchmarking.md says which has)"
    for shapes, notes in [
        (["16x128"], [missing[0], f"deep_gemm {idle}"]),
        (["8x32x128"], missing),
        (["16x128", "8x32x128"], missing),
    ]:
        assert cli.main([*arguments, "--ops", "quantize_1x128", "--shapes", *shapes]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if "is not timed" in line] == notes


def test_peers_that_are_named_in_vain_are_told(on_gpu, tmp_path, capsys):
    arguments = ["bench", "--out", str(tmp_path), "--regime", "cold", "--shapes", "8x32x128"]
    idle = "is not timed: it has no part in what is measured (docs/benchmarking.md says which has)"
    assert cli.main([*arguments, "--peers", "copy,floor,torch"]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        f"{name} {idle}" for name in ("copy", "floor", "torch")
    ]


def test_a_shape_that_fails_leaves_the_others(on_gpu, monkeypatch, tmp_path):
    real = quantizing.cute_gemm.quantize_1x128

    def broken(x, **named):
        if len(x) == 16:
            raise RuntimeError("no such kernel")
        return real(x, **named)

    monkeypatch.setattr(quantizing.cute_gemm, "quantize_1x128", broken)
    trials = plan(("quantize",), ("cold",), [records.ROWS], [(16, 128), (32, 128)])
    rows, failures = run_trials(bench(), trials, tmp_path)
    assert {each["m"] for each in rows} == {32}
    assert failures == ["cold 16x128 quantize_1x128: RuntimeError: no such kernel"]


_INTERPRET = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import torch
from cute_gemm.bench.peers import triton_quantizers
from cute_gemm.measure.quantizing import QuantizerCase

configs = list(triton_quantizers._CONFIGS)
for config in configs:
    # With one there is nothing to tune, which needs a GPU.
    triton_quantizers._quantize.configs = [config]
    for op in ("quantize_1x128", "quantize_1x128_gathered", "swiglu_quantize_1x128"):
        for shape in [(1, 144), (70, 272)]:
            case = QuantizerCase.make(op, shape, "cpu")
            if op != "swiglu_quantize_1x128":
                case.sources["x"][0, :16] = 0
            q, s = case.poisoned_results("row_major")
            triton_quantizers.quantize(case.sources["x"], case.sources.get("rows"), q, s)
            wanted_q, wanted_s = case.form.formula(**case.sources)
            torch.testing.assert_close(s, wanted_s, rtol=1e-5, atol=0)
            # Its interpreter loses the carry where it rounds up to a power of two.
            settled = (wanted_q.view(torch.uint8) & 7) != 0
            found, wanted = q.float()[settled], wanted_q.float()[settled]
            torch.testing.assert_close(found, wanted, rtol=1 / 8, atol=2**-9)
            assert (found != wanted).float().mean() < 0.02, (config, op, shape)
print(len(configs))
"""


@pytest.mark.thorough
def test_triton_kernels_are_right():
    assert kernels_interpreted(_INTERPRET) > 1
