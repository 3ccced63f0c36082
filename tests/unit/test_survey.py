"""A survey of random problems: what is timed, checked and kept; kernels, timers and the GPU are stand-ins."""

import importlib
import io
import itertools
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from stand_ins import card_of, stand_in_card
from test_tune import Kernels

import cute_gemm
from cute_gemm.measure import layers as measure_layers
from cute_gemm.measure.calls import Call
from cute_gemm.measure.cold import ColdTimes
from cute_gemm.measure.errors import CommandError
from cute_gemm.measure.layers import Chain
from cute_gemm.measure.records import CHAIN, COLD, CONTIGUOUS, DENSE, GROUPED, MASKED
from cute_gemm.plan import candidates as plan_candidates
from cute_gemm.plan import cost_model
from cute_gemm.plan.launch_policy import LaunchFlags
from cute_gemm.runtime import builder, hardware, selection, semaphores
from cute_gemm.tune.calls import kernel_of
from cute_gemm.tune.tasks import configs_to_time

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
chain_times = importlib.import_module("chain_times")
operand_pool = importlib.import_module("operand_pool")
peer_warmup = importlib.import_module("peer_warmup")
survey = importlib.import_module("survey")
survey_file = importlib.import_module("survey_file")
survey_plans = importlib.import_module("survey_plans")
survey_trials = importlib.import_module("survey_trials")
Draw = importlib.import_module("drawn_shapes").Draw
Measured = survey_file.Measured

SMS = 78
CARD = card_of(SMS)
DRAWS = [
    Draw(DENSE, 320, 384, (70,)),
    Draw(GROUPED[0], 256, 256, (30, 0, 100)),
    Draw(DENSE, 256, 1152, (3,)),
    Draw(GROUPED[1], 256, 256, (20, 0, 17)),
    Draw(MASKED, 256, 384, (9, 30), 50),
]


def flat(path):
    """Problem, draw, name of the candidate and its times, of each that was timed."""
    return [
        (problem, measured.draw, name, us)
        for problem, measured in survey_file.read_measured(path)
        for name, us in measured.times.items()
    ]


class Gpu:
    """What was timed, in order; how long calls take, and whether timing them fails."""

    def __init__(self):
        self.kernels = Kernels()
        self.flags = []
        self.cold = []
        self.chains = []
        self.compiled = []
        self.lost = 0
        self.uncaptured = 0
        self.wrong_chain = None
        self.peers_fail = False

    def instance(self, config):
        launch = self.kernels.instance(config)

        def noted(a, sa, b, sb, out, num_sms, flags, *rest):
            self.flags.append((config, num_sms, flags, b.data_ptr(), out.data_ptr()))
            launch(a, sa, b, sb, out, num_sms, flags, *rest)

        return noted

    def time_cold(self, calls, repeats, warm_up):
        self.cold.append((len(calls), repeats, warm_up))
        if self.lost:
            self.lost -= 1
            raise RuntimeError("CUPTI lost records")
        for call in calls:
            call()
        return [ColdTimes([10.0 + i, 20.0 + i, 21.0 + i]) for i in range(len(calls))]

    def time_chains(self, calls, rounds, least_us, seen=lambda place: None):
        if self.uncaptured:
            self.uncaptured -= 1
            raise RuntimeError("cannot be captured")
        if self.peers_fail and any(isinstance(call, Chain) for call in calls):
            raise RuntimeError("theirs cannot be captured")
        spans = []
        for place, call in enumerate(calls):
            before = len(self.flags)
            call()
            spans.append(self.flags[before:])
            if place == self.wrong_chain:
                self.outs[:4096] += 8
            seen(place)
        self.chains.append((rounds, least_us, spans))
        return [400.0 - i for i in range(len(calls))]


@pytest.fixture
def gpu(monkeypatch):
    gpu = Gpu()
    make = operand_pool.OperandPool.make
    pool = make("cpu", 24 << 20, 4 << 20)
    gpu.outs = pool.outs
    monkeypatch.setattr(builder, "instance", gpu.instance)
    monkeypatch.setattr(semaphores, "address", lambda index: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    stand_in_card(monkeypatch, SMS)
    monkeypatch.setattr(hardware, "is_hopper", lambda: True)
    monkeypatch.setattr(survey.OperandPool, "make", lambda: pool)
    monkeypatch.setattr(survey, "draw_shapes", lambda seed, ops, sms: (x for x in DRAWS if x.op in ops))
    monkeypatch.setattr(survey, "compile_kernels", lambda kernels: gpu.compiled.extend(kernels))
    monkeypatch.setattr(survey, "describe_origin", lambda more: {"device": "NVIDIA H200", "versions": more})
    monkeypatch.setattr(survey_trials.cold, "time_cold_together", gpu.time_cold)
    monkeypatch.setattr(survey_trials, "time_chains", gpu.time_chains)
    monkeypatch.setattr(survey_trials.clocks, "synchronize", lambda: None)
    monkeypatch.setattr(survey_trials.time, "sleep", lambda seconds: None)
    # What is timed here is computed on the CPU: few layers of few candidates.
    monkeypatch.setattr(measure_layers, "MOST_LAYERS", 5)
    monkeypatch.setattr(survey_plans, "_MOST_NEAR", 5)
    return gpu


def plan_of(draw, within=1.4, seed=0):
    return survey_plans.plan_of(draw, CARD, within, seed)


# What is timed


@pytest.mark.parametrize("draw", DRAWS, ids=lambda draw: f"{draw.op}_{draw.k}")
def test_candidates_are_the_near_ones_two_others_and_what_a_call_launches(draw):
    plan = plan_of(draw)
    near = configs_to_time(plan.problem, 1.4)[:24]
    assert list(plan.configs[: len(near)]) == near
    assert plan.chosen in plan.configs
    assert kernel_of(plan.problem, plan.chosen) == selection.select(plan.problem, True)
    others = set(plan.configs[len(near) :]) - {plan.chosen}
    assert len(others) <= 2
    assert all(plan_candidates.is_candidate(plan.problem, config) for config in others)
    assert len(set(plan.configs)) == len(plan.configs)
    assert plan.problem.num_sms == (draw.num_sms or SMS)


def test_other_candidates_are_drawn_by_the_seed():
    draw = Draw(DENSE, 4096, 7168, (300,))
    tails = {plan_of(draw, 1.1, seed).configs[-2:] for seed in range(20)}
    assert len(tails) > 10
    assert plan_of(draw, 1.1, 3) == plan_of(draw, 1.1, 3)
    best = cost_model.rank(plan_of(draw).problem)[0].cost_us
    costs = [cost_model.predict(plan_of(draw).problem, each).cost_us for tail in tails for each in tail]
    assert 1.1 * best < min(costs) < 2 * best < max(costs) <= 4 * best


def test_what_is_chosen_is_timed_whatever_the_model_thinks_of_it(monkeypatch):
    draw = Draw(DENSE, 4096, 7168, (300,))
    worst = cost_model.rank(plan_of(draw).problem)[-1].config
    monkeypatch.setattr(selection, "select", lambda problem, tma_scales: kernel_of(problem, worst))
    plan = plan_of(draw)
    assert plan.chosen == plan.configs[-1] == worst


def test_batches_hold_so_many_calls_and_so_much_time(monkeypatch):
    plans = [plan_of(draw) for draw in DRAWS * 30]
    found = list(survey_plans.batches(iter(plans)))
    assert [plan for batch in found for plan in batch] == plans
    counts = [sum(len(plan.configs) for plan in batch) for batch in found]
    assert max(counts) <= 200
    for batch, count, following in zip(found, counts, found[1:], strict=False):
        assert count + len(following[0].configs) > 200, len(batch)
    monkeypatch.setattr(survey_plans, "_MOST_US", 1.0)
    assert list(survey_plans.batches(plans)) == [[plan] for plan in plans]
    assert list(survey_plans.batches([])) == []


def test_a_survey_ends_before_a_batch_like_the_slowest_would_end_too_late():
    now, taken = [0.0], []
    budget = survey.Budget(100.0, lambda: now[0])
    now[0] = 40.0
    for item, seconds in zip(budget.rations(iter("abcdef")), (10.0, 20.0, 8.0, 1.0), strict=False):
        taken.append(item)
        now[0] += seconds
    # Behind the third batch 22 seconds are left, and the slowest took 20.
    assert taken == ["a", "b", "c"]
    assert budget.left == 22.0 - 0.0
    budget = survey.Budget(100.0, lambda: now[0])
    assert list(budget.rations(iter("ab"))) == ["a", "b"]
    now[0] += 101.0
    assert list(budget.rations(iter("ab"))) == []


def test_a_dry_run_lists_problems_and_needs_no_gpu(capsys):
    assert survey.main(["--dry-run", "--seed", "1", "--count", "20", "--ops", "dense", "masked"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21
    assert sum(line.startswith("m_grouped_masked ") for line in lines) == 2
    assert sum(line.startswith("dense_1d2d ") for line in lines) == 18
    assert all("candidates" in line for line in lines[:-1])
    assert lines[-1].startswith("20 problems in ")


def test_what_is_routed_is_of_offsets(capsys):
    assert survey.main(["--dry-run", "--routed", "--seed", "1", "--count", "5"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["m_grouped_offsets"] * 5
    assert last.startswith("5 problems in ")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name a new file by --out"),
        (["--peers", "deep_gemm", "--out", "x"], "--peers goes with --again"),
        (["--again", "--peers", "deep_gemm", "--out", "x"], "with --count"),
        (
            ["--again", "--count", "3", "--peers", "deep_gemm", "--num-sms", "random", "--out", "x"],
            "leave out --num-sms",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(argv, message, capsys):
    with pytest.raises(SystemExit):
        survey.main(argv)
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_without_a_gpu_it_says_so(tmp_path, capsys):
    out = tmp_path / "survey.jsonl"
    assert survey.main(["--out", str(out)]) == 1
    assert "torch sees none; --dry-run works without one" in capsys.readouterr().err
    assert not out.exists()


# A run


def test_a_survey_times_all_candidates_and_is_read_back(gpu, tmp_path, capsys):
    out = tmp_path / "survey.jsonl"
    assert survey.main(["--out", str(out), "--seed", "7"]) == 0
    plans = [plan_of(draw, seed=7) for draw in DRAWS]
    assert set(gpu.compiled) == {kernel for plan in plans for kernel in plan.kernels}
    header, *rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert header == {
        "device": "NVIDIA H200",
        "versions": {},
        "card": asdict(CARD),
        "seed": 7,
        "configs": [],
    }
    assert "configs" in rows[0]
    # All of them are one batch.
    assert gpu.cold == [(sum(len(plan.configs) for plan in plans), 5, 1)]
    assert len(gpu.chains) == len(plans)

    timings = flat(out)
    at = 0
    for plan, (rounds, least_us, spans) in zip(plans, gpu.chains, strict=True):
        of_plan = timings[at : at + len(plan.configs)]
        assert [name for *_, name, _ in of_plan] == [config.name for config in plan.configs]
        assert {draw for _, draw, *_ in of_plan} == {plan.draw}
        assert all(problem == plan.problem for problem, *_ in of_plan)
        layers = operand_pool.layers_of(plan.draw)
        assert (rounds, least_us) == (3, 300.0)
        for i, (*_, (cold, chain, chain_pdl)) in enumerate(of_plan):
            assert cold == 20.0 + at + i
            assert chain == round((400.0 - 2 * i) / layers, 2)
            assert chain_pdl == round((399.0 - 2 * i) / layers, 2)
        at += len(of_plan)
        assert len(spans) == 2 * len(plan.configs)
        for i, span in enumerate(spans):
            kernels, sms, flags, weights, outs = zip(*span, strict=True)
            assert set(kernels) == {kernel_of(plan.problem, plan.configs[i // 2])}
            assert set(sms) == {plan.problem.num_sms}
            assert {LaunchFlags.PDL in LaunchFlags(each) for each in flags} == {i % 2 == 1}
            assert len(set(weights)) == len(span) == layers
            assert len(set(outs)) == layers
    assert at == len(timings)
    said = capsys.readouterr().out
    assert "5 problems done" in said
    assert "dense_1d2d: 2, m_grouped_contiguous: 1, m_grouped_masked: 1, m_grouped_offsets: 1" in said
    assert "chain_pdl: chosen / best: mean " in said


def test_a_file_that_is_there_is_left_alone(gpu, tmp_path, capsys):
    out = tmp_path / "survey.jsonl"
    out.write_text("hours of work")
    assert survey.main(["--out", str(out)]) == 1
    assert "name a new file by --out" in capsys.readouterr().err
    assert out.read_text() == "hours of work"


@pytest.mark.parametrize("place", [0, 1, -1])
@pytest.mark.parametrize("kind", ["wrong", "different"])
def test_a_wrong_candidate_ends_the_survey_and_is_named(kind, place, gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(survey_plans, "_MOST_CALLS", 1)
    plan = plan_of(DRAWS[1])
    # The first of an order is judged by a sample, which a difference of one bit may pass.
    if kind == "different" and place == 0:
        place = 1
    getattr(gpu.kernels, kind).append(kernel_of(plan.problem, plan.configs[place]))
    out = tmp_path / "survey.jsonl"
    assert survey.main(["--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"WRONG m_grouped_contiguous 3x43x256x256: {plan.configs[place].name}")
    assert [each.draw for _, each in survey_file.read_measured(out)] == DRAWS[:1]


def test_a_profile_that_lost_records_is_taken_once_more(gpu, tmp_path, capsys):
    out = tmp_path / "survey.jsonl"
    gpu.lost = 1
    assert survey.main(["--out", str(out)]) == 0
    assert len(gpu.cold) == 2
    assert len(list(survey_file.read_measured(out))) == len(DRAWS)
    gpu.lost = 2
    assert survey.main(["--out", str(tmp_path / "other.jsonl"), "--ops", "dense"]) == 1
    assert list(survey_file.read_measured(tmp_path / "other.jsonl")) == []
    said = capsys.readouterr().err
    assert said.count("CUPTI lost records") == 3
    assert said.endswith("nothing of the first batch could be timed\n")
    assert "could not be timed cold: dense_1d2d 70x320x384, dense_1d2d 3x256x1152" in said


def test_what_cannot_be_captured_is_left_out(gpu, tmp_path, capsys):
    gpu.uncaptured = 1
    out = tmp_path / "survey.jsonl"
    assert survey.main(["--out", str(out)]) == 0
    assert [each.draw for _, each in survey_file.read_measured(out)] == DRAWS[1:]
    assert "left out: dense_1d2d 70x320x384: cannot be captured" in capsys.readouterr().err


# What is timed again


class Peer:
    """Computes as ours does; takes dense problems; one of them is wrong."""

    name, regimes = "deep_gemm", (COLD, CHAIN)

    def __init__(self, label="DeepGEMM", regimes=(COLD, CHAIN), factor=1.0):
        self.label, self.regimes, self.factor = label, regimes, factor

    def calls(self, case):
        if case.op != DENSE:
            return []

        def run():
            return cute_gemm.fp8_gemm_nt(case.lhs, case.rhs, case.poisoned_out()).mul_(self.factor)

        return [Call(self.label, run, lambda out: 0.0)]

    def versions(self):
        return {"deep_gemm": "2"}


def test_what_is_compared_is_timed_again(gpu, tmp_path, monkeypatch, capsys):
    right, dependent = Peer(), Peer("DeepGEMM, dependent launch", (CHAIN,))
    wrong = Peer("Wrong", factor=1.1)
    asked = []

    def split_available(names, registry):
        asked.append(names)
        return [right, dependent, wrong], ["another is not timed: it is not installed"]

    monkeypatch.setattr(survey, "split_available", split_available)
    monkeypatch.setattr(survey, "call_peers", lambda names, draws: asked.append((names, draws)))
    out = tmp_path / "judge.jsonl"
    argv = ["--again", "--peers", "deep_gemm", "--count", "9", "--out", str(out)]
    assert survey.main(argv) == 0
    assert asked == [["deep_gemm", "deep_gemm_pdl"], (["deep_gemm"] * 3, DRAWS)]
    assert [each[1:] for each in gpu.cold] == [(5, 1), (12, 1)]
    assert [each[0] for each in gpu.chains] == [3] * 5 + [12] * 5
    said = capsys.readouterr()
    assert "another is not timed" in said.err
    assert said.err.count("deep_gemm: dense_1d2d 70x320x384: its result is wrong") == 2
    assert json.loads(out.read_text().splitlines()[0])["versions"] == {"deep_gemm": "2"}
    measured = [each for _, each in survey_file.read_measured(out)]
    assert [each.draw for each in measured] == DRAWS
    for row in measured:
        # Times of the stand-in: in the first samples the first is the fastest cold, the last in a chain.
        ours = {"chosen", "best"}
        theirs = {"DeepGEMM"} if row.draw.op == DENSE else set()
        assert set(row.again[COLD]) == ours | theirs
        pdl = {each + ", dependent launch" for each in theirs}
        assert set(row.again[CHAIN]) == ours | {"chosen, dependent launch"} | theirs | pdl
        first, last = next(iter(row.times)), list(row.times)[-1]
        assert (row.again[COLD]["chosen"] == row.again[COLD]["best"]) == (row.chosen == first)
        both = row.again[CHAIN]["chosen, dependent launch"] == row.again[CHAIN]["best"]
        assert both == (row.chosen == last)
        assert row.again[CHAIN]["chosen"] != row.again[CHAIN]["best"]
        layers = operand_pool.layers_of(row.draw)
        assert row.again[CHAIN]["chosen"] == round(400.0 / layers, 2)
        if theirs:
            ways = 2 if both else 3
            assert row.again[CHAIN]["DeepGEMM"] == round((400.0 - ways) / layers, 2)
    for (_, _, spans), row in zip(gpu.chains[5:], measured, strict=True):
        plan = plan_of(row.draw)
        chosen = kernel_of(plan.problem, plan.chosen)
        best = kernel_of(plan.problem, plan.configs[-1])
        ours = [(span[0][0], bool(span[0][2] & LaunchFlags.PDL)) for span in spans if span]
        assert ours == list(dict.fromkeys([(chosen, False), (chosen, True), (best, True)]))
    assert "chain: chosen / best: mean" in said.out
    assert "chain_pdl" not in said.out


def test_a_peer_that_cannot_be_captured_costs_no_problem(gpu, tmp_path, monkeypatch, capsys):
    gpu.peers_fail = True
    monkeypatch.setattr(survey, "split_available", lambda names, registry: ([Peer()], []))
    monkeypatch.setattr(survey, "call_peers", lambda names, draws: None)
    out = tmp_path / "judge.jsonl"
    assert survey.main(["--again", "--peers", "deep_gemm", "--count", "9", "--out", str(out)]) == 0
    rows = [each for _, each in survey_file.read_measured(out)]
    assert [row.draw for row in rows] == DRAWS
    assert all(set(row.again[CHAIN]) == {"chosen", "chosen, dependent launch", "best"} for row in rows)
    dense = [draw for draw in DRAWS if draw.op == DENSE]
    assert capsys.readouterr().err.count("theirs cannot be captured") == len(dense)


def test_ratios_are_of_samples_that_decided_nothing_where_there_are_some():
    times = {"a": (10.0, 4.0, 3.0), "b": (8.0, 5.0, 2.0)}
    row = Measured(DRAWS[0], times, "a")
    assert survey_trials.judged([row]) == {"cold": [1.25], "chain": [1.0], "chain_pdl": [1.5]}
    again = {"cold": {"chosen": 9.0, "best": 10.0}, "chain": {"chosen": 6.0, "best": 5.0}}
    assert survey_trials.judged([replace(row, again=again)]) == {"cold": [0.9], "chain": [1.2]}


@pytest.mark.parametrize("place", [0, 3])
def test_results_of_a_chain_are_those_of_calls(place, gpu, tmp_path, capsys):
    gpu.wrong_chain = place
    assert survey.main(["--ops", "dense", "--count", "1", "--out", str(tmp_path / "survey.jsonl")]) == 1
    way = "by dependent launch" if place % 2 else "in a chain"
    name = plan_of(DRAWS[0]).configs[place // 2].name
    assert f"WRONG {DRAWS[0].title}: {name} differs {way}" in capsys.readouterr().err


def test_nothing_is_left_of_a_survey_that_came_to_nothing(gpu, tmp_path, monkeypatch):
    def killed(kernels):
        raise CommandError("killed")

    monkeypatch.setattr(survey, "compile_kernels", killed)
    out = tmp_path / "survey.jsonl"
    assert survey.main(["--count", "1", "--out", str(out)]) == 1
    assert not out.exists()


# What is kept


def test_lines_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "survey.jsonl"
    stream = path.open("w")
    file = survey_file.SurveyFile(stream, {"device": "H", "card": asdict(CARD)})
    rows = [
        Measured(DRAWS[0], {"a": (1.004, 2.0, 3.0), "b": (4.0, 5.0, 6.123)}, "b"),
        Measured(DRAWS[4], {"b": (7.0, 8.0, 9.0)}, "b", {"cold": {"chosen": 1.0, "best": 2.126}}),
        Measured(DRAWS[1], {"c": (1.0, 1.0, 1.0), "a": (2.0, 2.0, 2.0)}, "c"),
    ]
    # Each line is in the file at once, whatever becomes of the process.
    counts = [len(path.read_text().splitlines())]
    for row in rows:
        file.add(row)
        counts.append(len(path.read_text().splitlines()))
    assert counts == [1, 3, 4, 6]
    stream.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("configs") for line in lines] == [[], ["a", "b"], None, None, ["c"], None]
    assert lines[2]["t"] == [[0, 1.0, 2.0, 3.0], [1, 4.0, 5.0, 6.12]]
    assert lines[5]["t"] == [[2, 1.0, 1.0, 1.0], [0, 2.0, 2.0, 2.0]]
    found = list(survey_file.read_measured(path))
    assert [each.draw for _, each in found] == [row.draw for row in rows]
    assert [each.chosen for _, each in found] == ["b", "b", "c"]
    assert found[1][1].again == {"cold": {"chosen": 1.0, "best": 2.13}}
    assert [problem.num_sms for problem, _ in found] == [SMS, 50, SMS]
    timings = flat(path)
    assert [name for *_, name, _ in timings] == ["a", "b", "b", "c", "a"]
    assert timings[1][3] == [4.0, 5.0, 6.12]
    assert timings[0][0] == DRAWS[0].problem(CARD)
    assert (timings[3][1].op, timings[3][1].sizes) == (CONTIGUOUS, (30, 0, 100))
    path.write_text(path.read_text()[:-9])
    with pytest.raises(CommandError, match="line 6"):
        flat(path)


# How chains are timed


def test_graphs_take_turns_and_are_replayed_for_long_enough(monkeypatch):
    """Of 20, 500 and 150 us; each costs 1 us more in the second round."""
    log, now = [], [0.0]

    class Graph:
        def __init__(self):
            self.us = None

        def capture_begin(self):
            log.append("begin")

        def capture_end(self):
            log.append("end")
            self.us = calls.pop(0)

        def replay(self):
            log.append(self.us)
            now[0] += self.us

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("mark")
            self.at = now[0]

        def synchronize(self):
            log.append("wait")

        def elapsed_time(self, end):
            return (end.at - self.at) / 1e3

    calls = [20.0, 500.0, 150.0]
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", object)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: io.StringIO())
    chain_times._capture_stream.cache_clear()
    made = [lambda: log.append("call")] * 3
    assert chain_times.time_chains(made, 3, 300.0) == pytest.approx([20.0, 500.0, 150.0])
    chain_times._capture_stream.cache_clear()
    assert log[:9] == ["begin", "call", "end"] * 3
    first = [20.0, 500.0, 150.0, 20.0, "mark", 20.0, "mark", 500.0, "mark", 150.0, "mark", "wait"]
    assert log[9:21] == first
    one_round = [20.0, "mark", *[20.0] * 15, "mark", 500.0, "mark", 150.0, 150.0, "mark", "wait"]
    assert log[21:] == one_round * 3
    assert chain_times.time_chains([], 3) == []


def test_a_capture_that_fails_is_ended(monkeypatch):
    log = []
    graph = SimpleNamespace(capture_begin=lambda: log.append("begin"), capture_end=lambda: log.append("end"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: io.StringIO())
    monkeypatch.setattr(chain_times, "_capture_stream", lambda: None)
    with pytest.raises(ZeroDivisionError):
        chain_times.captured(lambda: 1 / 0)
    assert log == ["begin", "end"]


def test_rounds_are_summarised_by_their_median(monkeypatch):
    rounds = itertools.chain([[1.0, 600.0]], iter([[5.0, 1.0], [7.0, 2.0], [60.0, 9.0]]))
    asked = []

    def one_round(graphs, replays):
        asked.append(list(replays))
        return next(rounds)

    monkeypatch.setattr(chain_times, "captured", lambda call: SimpleNamespace(replay=lambda: None))
    monkeypatch.setattr(chain_times, "_one_round", one_round)
    assert chain_times.time_chains([print, print], 3, 300.0) == [7.0, 2.0]
    assert asked == [[1, 1], [300, 1], [300, 1], [300, 1]]


def test_without_time_nothing_is_timed(gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(survey.Budget, "left", -1.0)
    out = tmp_path / "survey.jsonl"
    assert survey.main(["--out", str(out)]) == 0
    assert gpu.cold == []
    assert "no time for any problem" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_peers_that_cannot_be_called_are_counted(capsys):
    peer_warmup.call_peers(["deep_gemm"], DRAWS[:2])
    said = capsys.readouterr().out
    assert said.startswith("deep_gemm: 2 problems called, 2 of them refused by one, ")
