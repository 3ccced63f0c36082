"""The suite of gradients: its plan, operands, calls and judge, and what becomes of its rows."""

import random
import sys
from types import ModuleType

import pytest
import torch
from bench_rows import ORIGIN, StandInTimer, row, stand_in_gpu
from stand_ins import card_of, stand_in_card

import cute_gemm
from cute_gemm import cli, contract
from cute_gemm.bench import command, results, tables
from cute_gemm.bench.peers.deep_gemm_gradients import DeepGemmGradients
from cute_gemm.bench.peers.registry import GRADIENTS
from cute_gemm.bench.run import Bench, kernels_of
from cute_gemm.bench.suite import Trial, plan
from cute_gemm.contract import k_grouped as k_grouped_contract
from cute_gemm.measure import gradients, records
from cute_gemm.measure.errors import CommandError
from cute_gemm.measure.gradients import GradientCase
from cute_gemm.measure.work import GRADIENT_FORMS, Work, draw_columns, problem_of
from cute_gemm.plan.data_sheets import data_sheet
from cute_gemm.plan.limits import MAX_EXTENT
from cute_gemm.runtime import launcher, selection

DENSE, COLUMNS = (130, 136, 272), (3, 68, 72, 208)
ADDED = records.DENSE_ADDED, records.K_GROUPED_ADDED
OPERATIONS = {3: "fp8_gemm_nt", 4: "k_grouped_fp8_gemm_nt"}


def small(op):
    return DENSE if op in records.DENSE_GRADIENTS else COLUMNS


def trial_of(op, regime="cold"):
    return Trial("gradients", regime, (op,), small(op))


def bench(*peers, timer=None, lines=None):
    timer = timer or StandInTimer()
    say = ([] if lines is None else lines).append
    timers = dict.fromkeys(("cold", "sustained"), timer)
    return Bench(timers, (), ORIGIN, card_of(78), device="cpu", say=say, gradients=peers)


# Plans and work


def test_the_plan_has_the_shapes_of_deepgemms_tests():
    trials = plan(("gradients",), ("cold", "chain", "sustained"))
    assert {each.regime for each in trials} == {"cold", "sustained"}
    cold = [each for each in trials if each.regime == "cold"]
    assert len(trials) == 2 * len(cold) == 2 * 2 * 6 * 3
    shapes = {op: [each.shape for each in cold if each.ops == (op,)] for op in records.GRADIENTS}
    assert shapes[records.DENSE_ADDED][:2] == [(2112, 4096, 7168), (24576, 4096, 1536)]
    assert shapes[records.K_GROUPED_BF16][-1] == (16, 7168, 2048, 2048)
    assert {len(found) for found in shapes.values()} == {6}
    (one,) = plan(("gradients",), ("cold",), [records.K_GROUPED_FP32], [DENSE, COLUMNS])
    assert (one.ops, one.shape, one.kind) == ((records.K_GROUPED_FP32,), COLUMNS, "gradient")
    assert one.full_title == "cold 3x68x72x208 k_grouped_fp32"


def test_given_shapes_are_of_gradients_where_no_other_suite_takes_them():
    trials = plan(("dense", "grouped", "gradients"), ("cold",), shapes=[DENSE, COLUMNS])
    assert {each.suite for each in trials} == {"dense", "grouped"}
    assert {each.ops for each in plan(("gradients",), ("cold",), shapes=[DENSE])} == {
        (op,) for op in records.DENSE_GRADIENTS
    }
    with pytest.raises(CommandError, match=r"gradients' are MxNxK or GxMxNxK.* not in a chain"):
        plan(("gradients",), ("chain",), shapes=[DENSE])
    with pytest.raises(CommandError, match=f"more than {MAX_EXTENT} columns"):
        plan(("gradients",), ("cold",), shapes=[(1000, 16, 16, 2_400_000)])


def test_columns_are_drawn_as_deepgemms_tests_draw_them():
    draw = random.Random(0)
    drawn = [int(8192 * draw.uniform(0.7, 1.3)) for _ in range(4)]
    columns = draw_columns(4, 8192)
    assert all(
        0 <= found - each < 128 and found % 128 == 0 for found, each in zip(columns, drawn, strict=True)
    )
    case = GradientCase.make(records.K_GROUPED_FP32, COLUMNS, "cpu")
    assert case.inputs.offsets.diff().tolist() == draw_columns(3, 208)
    assert case.inputs.lhs[0].shape == (68, sum(draw_columns(3, 208)))
    assert case.inputs.rhs[0].shape[0] == 72


def test_operands_are_read_once_and_what_is_added_to_is_read_too():
    m, n, k = DENSE
    operands = (m + n) * k + 4 * 3 * (m + n)
    for op, width in zip(records.DENSE_GRADIENTS, (8, 4, 2), strict=True):
        work = Work.of(op, DENSE)
        assert (work.flops, work.bytes_moved) == (2 * m * n * k, operands + width * m * n)
    groups, m, n, _ = COLUMNS
    k = sum(draw_columns(groups, COLUMNS[-1]))
    operands = (m + n) * k + 4 * k // 128 * (m + n)
    for op, width in zip(records.K_GROUPED_GRADIENTS, (8, 4, 2), strict=True):
        work = Work.of(op, COLUMNS)
        assert (work.flops, work.bytes_moved) == (2 * m * n * k, operands + width * groups * m * n)
    added = row(100.0, COLUMNS, op=records.K_GROUPED_ADDED)
    sheet = data_sheet("NVIDIA H200")
    assert added["limit_us"] == round(sheet.limit_us(Work.of_row(added)), 3)


# Calls


class Asked(Exception):
    """What a kernel was to be chosen for."""


@pytest.mark.parametrize("op", records.GRADIENTS)
def test_problems_are_those_that_are_launched(op, monkeypatch):
    """A row names the kernel that its problem selects: it had better be the one that ran."""

    def choose(problem, tma_scales, device):
        raise Asked(problem, tma_scales)

    monkeypatch.setattr(selection, "choose", choose)
    monkeypatch.setattr(launcher, "require_hopper", lambda device: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: -1)
    stand_in_card(monkeypatch, 78)
    case, form = GradientCase.make(op, small(op), "cpu"), GRADIENT_FORMS[op]
    inputs, out = case.inputs, case.new_out()
    given = inputs.lhs, inputs.rhs
    if op in records.K_GROUPED_GRADIENTS:
        checked = k_grouped_contract.check(*given, inputs.offsets, out, torch.float32, form.accumulates)
        call = checked.launched
    else:
        more = out, torch.bfloat16, None, 0, False
        call = contract.check(form.layout, *given, *more, accumulate=form.accumulates)
    with pytest.raises(Asked) as asked:
        launcher.launch_checked(call)
    assert asked.value.args == (problem_of(op, small(op), card_of(78)), True)


@pytest.mark.parametrize("regime", ["cold", "sustained"])
@pytest.mark.parametrize("op", records.GRADIENTS)
def test_a_row_of_each_form(op, regime, monkeypatch):
    name = OPERATIONS[len(small(op))]
    real, seen = getattr(cute_gemm, name), []

    def spy(lhs, rhs, *others, accumulate):
        loadable = launcher.tma_can_load(lhs[1]), launcher.tma_can_load(rhs[1])
        seen.append((*loadable, others[-1].dtype, accumulate, cute_gemm.settings.current().pdl))
        return real(lhs, rhs, *others, accumulate=accumulate)

    monkeypatch.setattr(cute_gemm, name, spy)
    (found,) = bench().measure(trial_of(op, regime))
    assert (found["op"], records.shape_of(found)) == (op, small(op))
    assert (found["us"], found["regime"], found["scale_layout"]) == (10.0, regime, "m_major")
    # The kernel's name says what it stores, and whether it adds.
    (kernel,) = kernels_of(trial_of(op, regime), card_of(78))
    assert found["config"] == kernel.name
    assert kernel.name.startswith("fp8_1d1d_")
    form = GRADIENT_FORMS[op]
    assert (kernel.out_dtype, kernel.accumulates) == (form.out_dtype, form.accumulates)
    assert found["error_worst_tile"] < (2e-7 if form.out_dtype == "float32" else 2.5e-6)
    pdl = False if regime == "cold" else None
    assert set(seen) == {(True, True, getattr(torch, form.out_dtype), form.accumulates, pdl)}
    assert results.objection(found) == ""


# Judging


def with_broken(monkeypatch, op, breaks):
    """Has `breaks(call number, out)` run behind each call of the operation."""
    name = OPERATIONS[len(small(op))]
    real, calls = getattr(cute_gemm, name), []

    def broken(lhs, rhs, *others, accumulate):
        out = real(lhs, rhs, *others, accumulate=accumulate)
        breaks(len(calls), out)
        calls.append(out)
        return out

    monkeypatch.setattr(cute_gemm, name, broken)


def one_element(number, out):
    out.view(-1)[-1] += 100


def nothing_but_nan(number, out):
    out.fill_(torch.nan)


@pytest.mark.parametrize("breaks", [one_element, nothing_but_nan])
@pytest.mark.parametrize("op", records.GRADIENTS)
def test_a_wrong_result_gets_no_row(op, breaks, monkeypatch):
    with_broken(monkeypatch, op, breaks)
    with pytest.raises(AssertionError, match=op):
        list(bench().measure(trial_of(op)))


@pytest.mark.parametrize("op", ADDED)
def test_a_timed_call_that_misses_a_tile_is_found(op, monkeypatch):
    """The call that is made to be judged is right."""
    case = GradientCase.make(op, small(op), "cpu")
    call = case.ours(card_of(78))
    for number in range(5):
        before = case.new_out() if call.result is None else call.result.clone()
        call()
        if number == 2:
            call.result[..., :64, :64] = before[..., :64, :64]
    with pytest.raises(AssertionError, match="times the product"):
        call.error()


@pytest.mark.parametrize("op", ADDED)
def test_a_product_that_is_added_twice_is_found(op, monkeypatch):
    case = GradientCase.make(op, small(op), "cpu")
    call = case.ours(card_of(78))
    run = call.run

    def twice():
        run()
        return run()

    broken = case.call("cute_gemm", twice, case.judge)
    broken()
    with pytest.raises(AssertionError, match="group 0"):
        broken.error()


@pytest.mark.parametrize("op", ADDED)
def test_a_product_that_replaces_what_was_held_is_found(op):
    """One call leaves the right thing: zero was held before it."""
    case = GradientCase.make(op, small(op), "cpu")
    product = torch.stack([each.float() for each in case.products])
    out = case.new_out()
    broken = case.call("cute_gemm", lambda: out.copy_(product.view_as(out)), case.judge)
    broken()
    with pytest.raises(AssertionError, match="group 0"):
        broken.error()


def test_many_calls_may_have_rounded():
    """A sustained run adds the same product tens of thousands of times."""
    case = GradientCase.make(records.DENSE_ADDED, DENSE, "cpu")
    product, out, call = case.products[0].float(), case.new_out(), case.ours(card_of(78))
    for _ in range(20_000):
        out += product
    case._require_multiple(out)
    call()
    call.result.copy_(out)
    assert call.error() < 2e-7
    out[:128, :128] *= 0.97
    with pytest.raises(AssertionError, match="times the product"):
        case._require_multiple(out)


# DeepGEMM


def split(operand, sizes, rows):
    """Matrices that lie end to end, with their scales."""
    values, scales = operand
    assert values.dim() == 1
    assert scales.shape == (rows, sum(sizes) // 128)
    assert launcher.tma_can_load(scales)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    parts = values.split([rows * size for size in sizes])
    return [
        (part.view(rows, size), scales[:, (end - size) // 128 : end // 128])
        for part, size, end in zip(parts, sizes, ends, strict=True)
    ]


@pytest.fixture
def deep_gemm(monkeypatch):
    """A stand-in of the package, and what its operations were given."""
    module, asked = ModuleType("deep_gemm"), []
    module.__version__, module.__spec__ = "2.6.1", object()

    def fp8_gemm_nt(a, b, d, c=None, recipe=None):
        asked.append((c is d, recipe))
        cute_gemm.fp8_gemm_nt(a, b, d, accumulate=True)

    def k_grouped(a, b, d, ks, ks_tensor, c=None, recipe=(1, 1, 128)):
        asked.append((c is d, recipe))
        assert ks == ks_tensor.tolist() == draw_columns(3, 208)
        assert ks_tensor.dtype is torch.int32
        (groups, m, n), sides = d.shape, []
        assert groups == len(ks)
        for operand, rows in ((a, m), (b, n)):
            sides.append(split(operand, ks, rows))
        for out, lhs, rhs in zip(d, *sides, strict=True):
            cute_gemm.fp8_gemm_nt(lhs, rhs, out, accumulate=True)

    module.fp8_gemm_nt, module.k_grouped_fp8_gemm_nt_contiguous = fp8_gemm_nt, k_grouped
    monkeypatch.setitem(sys.modules, "deep_gemm", module)
    return asked


@pytest.mark.parametrize("op", records.GRADIENTS)
def test_deep_gemm_has_those_that_are_added(op, deep_gemm):
    peer = GRADIENTS["deep_gemm"]
    assert (peer.available(), peer.versions()) == (None, {"deep_gemm": "2.6.1"})
    rows = list(bench(peer).measure(trial_of(op)))
    if op not in ADDED:
        assert [each["peer"] for each in rows] == ["cute_gemm"]
        assert deep_gemm == []
        return
    assert [(each["peer"], each["us"]) for each in rows] == [("cute_gemm", 10.0), ("DeepGEMM", 11.0)]
    assert rows[1]["error_worst_tile"] < 2e-7
    assert "wrong" not in rows[1]
    assert set(deep_gemm) == {(True, (1, 1, 128))}


@pytest.mark.parametrize("op", ADDED)
def test_a_wrong_result_of_deep_gemm_is_marked(op, deep_gemm, monkeypatch):
    name = {3: "fp8_gemm_nt", 4: "k_grouped_fp8_gemm_nt_contiguous"}[len(small(op))]
    real = getattr(sys.modules["deep_gemm"], name)

    def overwriting(a, b, d, *others, **named):
        d.zero_()
        real(a, b, d, *others, **named)

    monkeypatch.setattr(sys.modules["deep_gemm"], name, overwriting)
    ours, peer = bench(DeepGemmGradients()).measure(trial_of(op))
    assert "wrong" not in ours
    assert "limit 1e-05" in peer["wrong"]


def test_a_deep_gemm_without_the_operation_is_refused(deep_gemm, monkeypatch):
    lines = []
    monkeypatch.delattr("deep_gemm.k_grouped_fp8_gemm_nt_contiguous")
    rows = list(bench(DeepGemmGradients(), lines=lines).measure(trial_of(records.K_GROUPED_ADDED)))
    assert [each["peer"] for each in rows] == ["cute_gemm"]
    assert lines == ["  deep_gemm: refused: it has none of k_grouped_fp8_gemm_nt_contiguous"]


# The command, tables and pictures


def test_a_whole_run(deep_gemm, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(command, "Sustained", StandInTimer)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    compiled = stand_in_gpu(monkeypatch, 78)
    arguments = ["bench", "--suite", "gradients", "--out", str(tmp_path), "--peers", "deep_gemm,triton"]
    shapes = ["x".join(map(str, shape)) for shape in (DENSE, COLUMNS)]
    status = cli.main([*arguments, "--shapes", *shapes])
    out, err = capsys.readouterr()
    assert status == 0, err
    assert "FAILED" not in out + err
    assert "triton is not timed: it has no part in what is measured" in out
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == [
        "gradients_cold.jsonl",
        "gradients_sustained.jsonl",
    ]
    rows = results.read_results(tmp_path)
    assert {each["op"] for each in rows} == set(records.GRADIENTS)
    assert {each.name for each in compiled} == {each["config"] for each in rows} - {None}
    assert {each["op"] for each in rows if each["peer"] == "DeepGEMM"} == set(ADDED)
    assert f"cold {records.DENSE_ADDED}: ours against DeepGEMM" in out
    assert f"cold {records.DENSE_FP32}: ours against DeepGEMM" not in out
    assert cli.main([*arguments, "--resume", "--shapes", *shapes]) == 0
    assert "12 of 12 trials are in" in capsys.readouterr().out


def test_tables_and_pictures(tmp_path):
    shape = (4, 4096, 7168, 8192)
    rows = [
        row(1000.0, shape, op=records.K_GROUPED_ADDED),
        row(1100.0, shape, op=records.K_GROUPED_ADDED, peer=records.DEEPGEMM),
        row(50.0, (2112, 4096, 7168), op=records.DENSE_BF16, regime="sustained"),
    ]
    text = tables.render(rows)
    assert "## Gradients of experts' weights, added to FP32: cold L2, one call at a time" in text
    assert "## Gradient of weights, bf16: sustained, at the power limit" in text
    assert "| groups | M | N | columns of each |" in text
    assert "1100.00 (1.10x)" in text
    plots = pytest.importorskip("cute_gemm.bench.plots", reason="needs matplotlib")
    names = {file.stem for file in plots.draw(rows, tmp_path)}
    assert names == {"roofline_cold", "roofline_sustained", f"speedup_{records.K_GROUPED_ADDED}_cold"}
    assert set(plots._OPS_LOOK) == set(tables.OPS)
    looks = list(plots._OPS_LOOK.values())
    assert len({marker for _, marker in looks}) == len(looks)


def test_all_forms_have_their_words():
    assert set(GRADIENT_FORMS) == set(records.GRADIENTS)
    assert set(records.GRADIENTS) < tables.OPS.keys()
    assert set(records.GRADIENTS) < results.PEER_OPS.keys()
    assert gradients.GradientCase.make(records.DENSE_BF16, DENSE, "cpu").new_out().isnan().all()
