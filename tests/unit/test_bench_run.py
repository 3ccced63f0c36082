"""A run of the benchmark, as far as that goes without a GPU: plan, operands, turns, judging, files."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from bench_rows import ORIGIN, SMALL, StandInTimer, row
from levels import cases
from stand_ins import card_of, stand_in_card

import cute_gemm
from cute_gemm import contract
from cute_gemm.bench.peers import cublas
from cute_gemm.bench.run import Bench, run_trials
from cute_gemm.bench.suite import Trial, plan
from cute_gemm.measure import layers, records
from cute_gemm.measure.calls import Call
from cute_gemm.measure.cases import DenseCase, GroupedCase, in_layout, make_case
from cute_gemm.measure.errors import CommandError
from cute_gemm.measure.work import problem_of
from cute_gemm.plan import candidates, cost_model
from cute_gemm.plan.layouts import LAYOUTS
from cute_gemm.runtime import launcher, selection

OPS = ["m_grouped_contiguous", "m_grouped_offsets", "m_grouped_masked"]
DENSE_TRIAL = Trial("dense", "cold", ("dense_1d2d",), (130, 256, 512))


def small(op):
    return SMALL["masked" if op == "m_grouped_masked" else "contiguous"]


@pytest.fixture(autouse=True)
def small_capacity(monkeypatch):
    monkeypatch.setattr("cute_gemm.measure.cases._CAPACITY", 128)


class FakePeer:
    """Gives right results of the dense product, or what it is made with."""

    name = "fake"

    def __init__(self, run=None, refusal=None, regimes=("cold", "chain"), ways=1):
        self.run, self.refusal, self.regimes, self.ways = run, refusal, regimes, ways

    def calls(self, case):
        if self.refusal:
            raise self.refusal
        if not isinstance(case, DenseCase):
            return []
        run = self.run or (lambda: cute_gemm.fp8_gemm_nt(case.lhs, case.rhs))
        return [Call("Fake", run, lambda out: case.judge(out), config=str(way)) for way in range(self.ways)]


def bench(*peers, timer=None, lines=None):
    timer = timer or StandInTimer()
    say = [].append if lines is None else lines.append
    return Bench(
        dict.fromkeys(("cold", "chain", "sustained"), timer),
        peers,
        ORIGIN,
        card_of(78),
        device="cpu",
        say=say,
    )


# Plans


def test_default_plan_is_what_peers_were_measured_at():
    trials = plan(("dense", "grouped"), ("cold", "sustained"))
    counts = {}
    for trial in trials:
        counts.setdefault((trial.suite, trial.regime), []).append(trial.ops)
    assert {key: len(found) for key, found in counts.items()} == {
        ("dense", "cold"): 35,
        ("dense", "sustained"): 5,
        ("grouped", "cold"): 24,
        ("grouped", "sustained"): 2,
    }
    assert list(counts) == list(dict.fromkeys((trial.suite, trial.regime) for trial in trials))
    assert set(counts["grouped", "cold"]) == {(OPS[0], OPS[1]), (OPS[2],)}
    assert plan(("grouped",), ("sustained",), [OPS[1]])[0].ops == (OPS[1],)


def test_shapes_go_to_the_suite_that_takes_them():
    shapes = [(64, 2112, 7168), (4, 100, 136, 272)]
    trials = plan(("dense", "grouped"), ("cold",), OPS, shapes)
    assert [(trial.suite, trial.ops, trial.shape) for trial in trials] == [
        ("dense", ("dense_1d2d",), shapes[0]),
        ("grouped", (OPS[0], OPS[1]), shapes[1]),
        ("grouped", (OPS[2],), shapes[1]),
    ]
    with pytest.raises(CommandError, match=r"64x2112x7168.* of the suite grouped .*GxMxNxK"):
        plan(("grouped",), ("cold",), OPS, shapes[:1])
    for shape, why in [
        ((64, 2113, 7168), "N = 2113 is not a positive multiple of 8"),
        ((64, 2112, 7160), "K = 7160 is not a positive multiple of 16"),
        ((0, 2112, 7168), "numbers start at 1"),
        ((1023, 1, 2112, 7168), "1023 groups are not between 1 and 1022"),
    ]:
        with pytest.raises(CommandError, match=why):
            plan(("dense",), ("cold",), OPS, [shape])


# Operands


class Asked(Exception):
    """What a kernel was to be chosen for."""


@pytest.mark.parametrize("op", ["dense_1d2d", *OPS])
def test_problems_are_those_that_are_launched(op, monkeypatch):
    """A row names the kernel that its problem selects: it had better be the one that ran."""

    def choose(problem, tma_scales, device):
        raise Asked(problem, tma_scales)

    monkeypatch.setattr(selection, "choose", choose)
    monkeypatch.setattr(launcher, "require_hopper", lambda device: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: -1)
    stand_in_card(monkeypatch, 78)
    shape = DENSE_TRIAL.shape if op == "dense_1d2d" else small(op)
    case = make_case(op, shape, "cpu")
    index = None if op == "dense_1d2d" else case.inputs.index
    count = {"m_grouped_offsets": 1, "m_grouped_masked": 20}.get(op, 0)
    layout = LAYOUTS[op.removeprefix("m_grouped_").removesuffix("_1d2d")]
    out = case.poisoned_out()
    call = contract.check(layout, case.lhs, case.rhs, out, torch.bfloat16, index, count, False)
    with pytest.raises(Asked) as asked:
        launcher.launch_checked(call)
    assert asked.value.args == (problem_of(op, shape, card_of(78)), False)


@pytest.mark.parametrize("op", ["dense_1d2d", *OPS])
def test_a_row_names_the_kernel_that_its_scales_select(op, monkeypatch):
    name = "fp8_gemm_nt" if op == "dense_1d2d" else op.replace("m_grouped", "m_grouped_fp8_gemm_nt")
    loadable, real = [], getattr(cute_gemm, name)

    def spy(lhs, *arguments):
        loadable.append(launcher.tma_can_load(lhs[1]))
        return real(lhs, *arguments)

    def select(problem, tma_scales=False):
        return SimpleNamespace(name=f"{problem.layout}, {'by TMA' if tma_scales else 'by threads'}")

    monkeypatch.setattr(cute_gemm, name, spy)
    monkeypatch.setattr(selection, "select", select)
    shape = DENSE_TRIAL.shape if op == "dense_1d2d" else small(op)
    rows = list(bench().measure(Trial("any", "cold", (op,), shape)))
    layout = problem_of(op, shape).layout
    assert [(each["scale_layout"], each["config"]) for each in rows] == [
        ("m_major", f"{layout}, by TMA"),
        ("row_major", f"{layout}, by threads"),
    ]
    assert loadable == [True, False] * 2


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        *(("dense_1d2d", (m, 8, k)) for m in (1, 4, 127, 130) for k in (16, 272)),
        *((op, (groups, 20, 8, k)) for op in OPS for groups in (1, 3) for k in (16, 272)),
    ],
)
def test_tma_can_load_m_major_scales(op, shape):
    """Whatever extents are 1, of which a stride could be anything."""
    _, sa = make_case(op, shape, "cpu").lhs
    assert in_layout(sa, "row_major") is sa
    assert not launcher.tma_can_load(sa)
    moved = in_layout(sa, "m_major")
    assert torch.equal(moved, sa)
    assert launcher.tma_can_load(moved)


@pytest.mark.parametrize("op", OPS)
def test_rows_of_no_group_are_numbers(op):
    case = GroupedCase.make(op, small(op), "cpu")
    a, sa = case.inputs.lhs
    values = a.float()
    assert values.isfinite().all()
    assert (values.abs().sum(-1) > 0).all()
    assert sa.isfinite().all()


def test_masked_groups_have_room_for_their_rows():
    case = GroupedCase.make("m_grouped_masked", (2, 200, 8, 16), "cpu")
    assert case.lhs[0].shape == (2, 256, 16)


# Measuring


def test_dense_rows(monkeypatch):
    strides = []
    real = cute_gemm.fp8_gemm_nt

    def spy(lhs, rhs, out):
        strides.append(lhs[1].stride())
        return real(lhs, rhs, out)

    monkeypatch.setattr(cute_gemm, "fp8_gemm_nt", spy)
    rows = list(bench().measure(DENSE_TRIAL))
    # Columns of M-major scales start on 16 bytes: 130 rows take the place of 132.
    assert strides == [(1, 132), (4, 1)] * 2
    assert [each["scale_layout"] for each in rows] == ["m_major", "row_major"]
    assert [(each["us"], each["median"], each["spread"]) for each in rows] == [
        (10, 10, 0.2),
        (11, 11, 0.1818),
    ]
    for each in rows:
        assert (each["rounds"], each["timer"], each["regime"]) == (3, "stand-in", "cold")
        tma = each["scale_layout"] == "m_major"
        assert (
            each["config"]
            == selection.select(problem_of("dense_1d2d", DENSE_TRIAL.shape, card_of(78)), tma).name
        )
        assert 1e-6 < each["error_worst_tile"] < 2.5e-6
        assert each["device"] == "NVIDIA H200"


@pytest.mark.parametrize(
    ("trial", "layouts"),
    [
        (Trial("dense", "cold", ("dense_1d2d",), (1, 8, 16)), ["m_major", "row_major"]),
        (Trial("dense", "cold", ("dense_1d2d",), (128, 8, 16)), ["m_major", "row_major"]),
        (Trial("dense", "sustained", ("dense_1d2d",), (128, 8, 16)), ["m_major"]),
        (Trial("grouped", "cold", ("m_grouped_masked",), SMALL["masked"]), ["m_major", "row_major"]),
        (Trial("grouped", "sustained", ("m_grouped_masked",), SMALL["masked"]), ["m_major"]),
    ],
)
def test_row_major_scales_are_measured_beside_m_major_ones_when_cold(trial, layouts):
    assert [each["scale_layout"] for each in bench().measure(trial)] == layouts


def test_ours_and_peers_take_turns():
    timer = StandInTimer()
    rows = list(bench(FakePeer(), timer=timer).measure(DENSE_TRIAL))
    assert [chain.first.peer for chain in timer.order] == ["cute_gemm", "cute_gemm", "Fake"] * 2
    assert [each["peer"] for each in rows] == ["cute_gemm", "cute_gemm", "Fake"]
    assert rows[2]["us"] == 12.0
    assert rows[2]["scale_layout"] is None
    assert 1e-6 < rows[2]["error_worst_tile"] < 2.5e-6


def test_of_a_peers_ways_the_fastest_counts():
    rows = list(bench(FakePeer(ways=3)).measure(DENSE_TRIAL))
    # The stand-in says that the first call takes least.
    assert [(each["peer"], each["config"]) for each in rows[2:]] == [("Fake", "0")]


# Chains

CHAIN_TRIAL = replace(DENSE_TRIAL, regime="chain")


@pytest.fixture
def three_layers(monkeypatch):
    b_bytes = 256 * 512
    monkeypatch.setattr(layers, "WEIGHTS_BYTES", 3 * b_bytes)
    monkeypatch.setattr(layers, "LEAST_LAYERS", 1)


def test_each_layer_of_a_chain_has_weights_and_a_result_of_its_own(three_layers, monkeypatch):
    seen, real = [], cute_gemm.fp8_gemm_nt

    def spy(lhs, rhs, out):
        seen.append((cute_gemm.settings.current().pdl, lhs[0], rhs[0], rhs[1], out))
        return real(lhs, rhs, out)

    monkeypatch.setattr(cute_gemm, "fp8_gemm_nt", spy)
    rows = list(bench(FakePeer(lambda: torch.zeros(1), regimes=("cold",))).measure(CHAIN_TRIAL))
    assert [each["peer"] for each in rows] == [
        "cute_gemm",
        "cute_gemm, dependent launch",
        "cute_gemm, no dependent launch",
    ]
    # 10, 11 and 12 us of three layers each.
    assert [each["us"] for each in rows] == [3.333, 3.667, 4.0]
    assert [each["layers"] for each in rows] == [3, 3, 3]
    assert [pdl for pdl, *_ in seen[:9]] == [None] * 3 + [True] * 3 + [False] * 3
    for chain in (seen[:3], seen[3:6], seen[6:9]):
        assert len({a.data_ptr() for _, a, *_ in chain}) == 1
        for tensors in zip(*(each[2:] for each in chain), strict=True):
            assert len({tensor.data_ptr() for tensor in tensors}) == 3


def test_cold_calls_are_not_dependent(monkeypatch):
    """They would wait for the flush, and CUPTI count that."""
    seen, real = [], cute_gemm.fp8_gemm_nt

    def spy(lhs, rhs, out):
        seen.append(cute_gemm.settings.current().pdl)
        return real(lhs, rhs, out)

    monkeypatch.setattr(cute_gemm, "fp8_gemm_nt", spy)
    for regime, wanted in (("cold", False), ("sustained", None)):
        seen.clear()
        list(bench().measure(replace(DENSE_TRIAL, regime=regime)))
        assert set(seen) == {wanted}


@pytest.mark.parametrize("layer", [0, 2])
def test_every_layer_of_a_chain_is_judged(layer, three_layers, monkeypatch):
    calls, real = [], cute_gemm.fp8_gemm_nt

    def broken(lhs, rhs, out):
        calls.append(real(lhs, rhs, out))
        if (len(calls) - 1) % 3 == layer:
            out[0, 0] += 100
        return out

    monkeypatch.setattr(cute_gemm, "fp8_gemm_nt", broken)
    with pytest.raises(AssertionError, match="tile"):
        list(bench().measure(CHAIN_TRIAL))


@pytest.mark.parametrize("layer", [0, 2])
def test_a_way_that_refuses_one_layer_is_left_out(layer, three_layers):
    """Memory may end at any layer; the peer's other ways are timed."""
    lines, made = [], []

    class Peer(FakePeer):
        def calls(self, case):
            first, second = super().calls(case)
            made.append(first)
            if len(made) - 1 == layer:
                first.run = self.refuse
            return [first, second]

        def refuse(self):
            raise torch.OutOfMemoryError("no memory")

    rows = list(bench(Peer(ways=2), lines=lines).measure(CHAIN_TRIAL))
    assert [(each["peer"], each["config"]) for each in rows[3:]] == [("Fake", "1")]
    assert lines == ["  Fake: refused: no memory"]


@pytest.mark.parametrize("op", OPS)
def test_chains_of_grouped_operations(op, monkeypatch):
    monkeypatch.setattr(layers, "LEAST_LAYERS", 2)
    monkeypatch.setattr(layers, "WEIGHTS_BYTES", 0)
    rows = list(bench().measure(Trial("grouped", "chain", (op,), small(op))))
    assert [(each["peer"], each["layers"]) for each in rows] == [
        ("cute_gemm", 2),
        ("cute_gemm, dependent launch", 2),
        ("cute_gemm, no dependent launch", 2),
    ]


@pytest.mark.parametrize("wrong", ["one element", "nothing written"])
def test_a_wrong_result_gets_no_row_and_costs_no_other(wrong, monkeypatch):
    real = cute_gemm.fp8_gemm_nt

    def broken(lhs, rhs, out=None):
        if out is None:
            return real(lhs, rhs)
        if wrong == "one element":
            real(lhs, rhs, out)
            out[129, 255] *= 2
        return out

    monkeypatch.setattr(cute_gemm, "fp8_gemm_nt", broken)
    rows = bench(FakePeer()).measure(DENSE_TRIAL)
    assert next(rows)["peer"] == "Fake"
    with pytest.raises(AssertionError, match=r"m_major.*(tile|element).*row_major.*(tile|element)"):
        next(rows)


def test_a_peers_wrong_result_is_marked():
    (*_, found) = bench(FakePeer(lambda: torch.zeros(130, 256, dtype=torch.bfloat16))).measure(DENSE_TRIAL)
    assert found["peer"] == "Fake"
    assert found["wrong"].startswith("tile (0, 0)")
    assert found["error_worst_tile"] is None


def test_a_peer_is_judged_by_what_the_timed_calls_left():
    """Not by the call that showed that it takes the shape."""
    case = DenseCase.make(DENSE_TRIAL.shape, "cpu")
    out = cute_gemm.fp8_gemm_nt(case.lhs, case.rhs)
    (*_, found) = bench(FakePeer(lambda: out)).measure(DENSE_TRIAL)
    assert "wrong" in found


@pytest.mark.parametrize("where", ["calls", "call"])
def test_what_a_peer_refuses_is_a_note(where):
    error = NotImplementedError("no such M\nand more")

    def refuse():
        raise error

    lines = []
    peer = FakePeer(refusal=error) if where == "calls" else FakePeer(refuse)
    rows = list(bench(peer, lines=lines).measure(DENSE_TRIAL))
    assert [each["peer"] for each in rows] == ["cute_gemm"] * 2
    assert lines == [f"  {'fake' if where == 'calls' else 'Fake'}: refused: no such M"]


def test_grouped_rows_are_calibrated(monkeypatch):
    case = DenseCase.make((16, 16, 128), "cpu")
    right = Call(records.FAST, lambda: torch.zeros(1), lambda out: 0.0)
    monkeypatch.setattr("cute_gemm.bench.run.calibration_call", lambda shape, device: right)
    timer = StandInTimer()
    trial = Trial("grouped", "cold", tuple(OPS[:2]), SMALL["contiguous"])
    rows = list(bench(cublas.Cublas(), timer=timer).measure(trial))
    assert [(each["op"], each["scale_layout"]) for each in rows] == [
        (op, layout) for op in OPS[:2] for layout in ("m_major", "row_major")
    ]
    assert [each["us"] for each in rows] == [10.0, 11.0, 12.0, 13.0]
    key = {"op": "dense_1d2d", "m": 64, "n": 7168, "k": 16384, "peer": records.FAST, "us": 14.0}
    for each in rows:
        assert records.shape_of(each) == trial.shape
        assert each["calibration"] == key
        assert 1e-6 < each["error_worst_tile"] < 2.5e-6
        problem = problem_of(each["op"], trial.shape, card_of(78))
        best = cost_model.best(problem)
        tma = each["scale_layout"] == "m_major"
        assert each["config"] == candidates.as_run(problem, best, tma).name
        assert best.name.endswith(each["op"].removeprefix("m_grouped"))
    *chains, beside = timer.order[:5]
    assert [chain.first.peer for chain in chains] == ["cute_gemm"] * 4
    assert beside.peer == records.FAST
    assert timer.order[5:] == timer.order[:5]

    lines = []
    wrong = Call(records.FAST, lambda: torch.zeros(16, 16), cublas.judge_within(case.error, 1e-3))
    monkeypatch.setattr("cute_gemm.bench.run.calibration_call", lambda shape, device: wrong)
    rows = list(bench(cublas.Cublas(), lines=lines).measure(trial))
    assert len(rows) == 4
    assert not any("calibration" in each for each in rows)
    assert "the worst tile's error is" in lines[0]
    assert not any("calibration" in each for each in bench().measure(trial))


WRONG = "another expert's", "padding written", "M-major misread"


@pytest.mark.parametrize(("op", "wrong"), cases(product(OPS, WRONG), usual=[*zip(OPS, WRONG, strict=True)]))
def test_a_wrong_grouped_result_gets_no_row(op, wrong, monkeypatch):
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
        return out

    monkeypatch.setattr(cute_gemm, name, broken)
    rows = bench().measure(Trial("grouped", "cold", (op,), small(op)))
    if wrong == "M-major misread":
        assert next(rows)["scale_layout"] == "row_major"
    if wrong == "padding written" and op == "m_grouped_offsets":
        assert len(list(rows)) == 2  # there is none
        return
    with pytest.raises(AssertionError, match=r"group|row"):
        next(rows)


# Files


TRIALS = [
    Trial(suite, regime, ops, shape)
    for suite, ops, shape in [
        ("dense", ("dense_1d2d",), (1, 32, 128)),
        ("dense", ("dense_1d2d",), (8, 32, 128)),
        ("grouped", (OPS[2],), SMALL["masked"]),
    ]
    for regime in ("cold", "sustained")
]


def test_each_suite_and_regime_has_its_file(tmp_path):
    lines = []
    rows, failures = run_trials(bench(lines=lines), TRIALS, tmp_path)
    assert failures == []
    assert len(rows) == 9
    for regime, layouts in (("cold", 2), ("sustained", 1)):
        dense = records.read_rows(tmp_path / f"dense_{regime}.jsonl")
        shapes = [(1, 32, 128)] * layouts + [(8, 32, 128)] * layouts
        assert [records.shape_of(each) for each in dense] == shapes
        grouped = records.read_rows(tmp_path / f"grouped_{regime}.jsonl")
        assert [each["op"] for each in grouped] == [OPS[2]] * layouts
        assert {each["regime"] for each in dense + grouped} == {regime}
    assert lines[0].startswith("cold 1x32x128 dense_1d2d cute_gemm")
    assert " m_major: 10.00 us, spread 20.0%, 0 TFLOP/s" in lines[0]


@pytest.mark.parametrize("error", [AssertionError("tile (0, 0) is off"), RuntimeError("no such kernel")])
def test_a_shape_that_fails_costs_its_own_rows_only(error, monkeypatch, tmp_path):
    real = cute_gemm.fp8_gemm_nt

    def broken(lhs, rhs, out):
        if lhs[0].shape[0] == 1:
            raise error
        return real(lhs, rhs, out)

    monkeypatch.setattr(cute_gemm, "fp8_gemm_nt", broken)
    lines = []
    rows, failures = run_trials(bench(lines=lines), TRIALS, tmp_path)
    assert failures == [
        f"{regime} 1x32x128: {type(error).__name__}: {error}" for regime in ("cold", "sustained")
    ]
    assert [f"FAILED {each}" in lines for each in failures] == [True, True]
    assert len(rows) == 6
    for regime, layouts in (("cold", 2), ("sustained", 1)):
        dense = records.read_rows(tmp_path / f"dense_{regime}.jsonl")
        assert [records.shape_of(each) for each in dense] == [(8, 32, 128)] * layouts


@pytest.mark.parametrize(("at", "kept"), [(1, []), (8, [(1, 32, 128)] * 2)])
def test_rows_are_kept_when_a_run_is_cut_off(at, kept, monkeypatch, tmp_path):
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
        run_trials(bench(), [trial for trial in TRIALS if trial.regime == "cold"], tmp_path)
    assert [records.shape_of(each) for each in records.read_rows(path)] == kept


def test_what_a_peers_kernel_does_wrong_shows_before_it_is_timed(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(1))
    list(bench(FakePeer()).measure(DENSE_TRIAL))
    assert waited == []
    on_gpu = SimpleNamespace(device="cuda", _note=lambda *_: None)
    assert Bench._takes(on_gpu, Call("x", lambda: torch.zeros(1), lambda out: 0.0))
    assert waited == [1]
