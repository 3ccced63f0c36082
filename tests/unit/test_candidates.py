"""Timing all candidates of the cost model: all must agree, and what comes out is what the model reads."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from bench_rows import SMALL
from levels import cases
from stand_ins import card_of, stand_in_card
from test_tune import Kernels

from cute_gemm.measure import records
from cute_gemm.measure.cases import make_case
from cute_gemm.measure.cold import ColdTimes
from cute_gemm.measure.work import problem_of
from cute_gemm.plan import candidates as plan_candidates
from cute_gemm.plan import cost_model
from cute_gemm.runtime import builder, hardware

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
candidates = importlib.import_module("candidates")


@pytest.fixture
def timed(monkeypatch):
    """Everything that needs a GPU replaced; gives the calls that were timed."""
    timed = []

    def time_cold_together(calls, repeats):
        times = []
        for call in calls:
            call()
            timed.append(call)
            times.append(ColdTimes([10.0 + len(timed)] * repeats))
        return times

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(hardware, "is_hopper", lambda: True)
    stand_in_card(monkeypatch, 78)
    monkeypatch.setattr("cute_gemm.measure.cases._CAPACITY", 128)
    monkeypatch.setattr(candidates, "make_case", lambda op, shape: make_case(op, shape, "cpu"))
    monkeypatch.setattr(candidates, "calibration_call", lambda shape: lambda: None)
    monkeypatch.setattr(candidates, "compile_configs", list)
    monkeypatch.setattr(candidates.cold, "time_cold_together", time_cold_together)
    return timed


OPS = {
    "dense_1d2d": (32, 136, 272),
    "m_grouped_contiguous": SMALL["contiguous"],
    "m_grouped_offsets": SMALL["contiguous"],
    "m_grouped_masked": SMALL["masked"],
}


@pytest.mark.parametrize("op", cases(OPS, usual=("dense_1d2d", "m_grouped_masked")))
def test_candidates_are_timed_and_must_agree(op, timed, monkeypatch, tmp_path):
    shape = OPS[op]
    kernels = Kernels()
    monkeypatch.setattr(builder, "instance", kernels.instance)
    text = "x".join(map(str, shape))
    arguments = ["candidates.py", "--op", op, "--shapes", text, "--out", str(tmp_path / "rows.jsonl")]
    monkeypatch.setattr(sys, "argv", arguments)
    assert candidates.main() == 0
    problem = problem_of(op, shape, card_of(78))
    ranked = cost_model.rank(problem)
    suitable = [choice.config for choice in ranked if choice.cost_us < 2 * ranked[0].cost_us]
    run = [plan_candidates.as_run(problem, config, True) for config in suitable]
    assert set(kernels.launched) == {(config, 78) for config in run}
    assert len(timed) == len(suitable) + 1
    rows = records.read_rows(tmp_path / "rows.jsonl")
    assert len(rows) == len(suitable)
    assert {records.shape_of(each) for each in rows} == {shape}
    assert {each["op"] for each in rows} == {op}
    assert rows[0]["cublaslt_us"] == len(suitable) + 11
    assert [each["us"] for each in rows] == [11 + i for i in range(len(rows))]

    # What shares out k-blocks may differ.
    last = max(place for place, config in enumerate(suitable) if config.splits == 1)
    kernels.different.append(run[last])
    first = next(config for config in suitable if config.splits == 1)
    with pytest.raises(AssertionError, match=f"{suitable[last].name} differs from {first.name}"):
        candidates.main()


def test_random_shapes_are_those_of_a_seed():
    shapes = candidates.random_shapes(200, 1)
    assert shapes == candidates.random_shapes(200, 1)
    assert shapes != candidates.random_shapes(200, 2)
    for m, n, k in shapes:
        assert 1 <= m <= 4096
        assert 512 <= n <= 16384
        assert n % 64 == 0
        assert 512 <= k <= 8192
        assert k % 128 == 0
    assert len({m for m, _, _ in shapes if m <= 64}) > 20


def test_random_shapes_are_timed(timed, monkeypatch, tmp_path):
    kernels = Kernels()
    monkeypatch.setattr(builder, "instance", kernels.instance)
    monkeypatch.setattr(candidates, "random_shapes", lambda count, seed: [(seed, 136, 272)] * count)
    out = tmp_path / "rows.jsonl"
    arguments = ["candidates.py", "--random", "1", "--seed", "5", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert candidates.main() == 0
    assert {records.shape_of(each) for each in records.read_rows(out)} == {(5, 136, 272)}


def test_random_shapes_are_dense(timed, monkeypatch, capsys):
    arguments = ["candidates.py", "--op", "m_grouped_masked", "--random", "1", "--out", "x"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        candidates.main()
    assert "--random draws dense shapes" in capsys.readouterr().err
