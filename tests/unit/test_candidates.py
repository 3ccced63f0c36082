"""Timing all candidates of the cost model: all must agree, and what comes out is what the model reads."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bench_rows import SMALL

import cute_gemm
from cute_gemm import dispatch, heuristics
from cute_gemm.bench import records
from cute_gemm.bench.cases import make_case
from cute_gemm.bench.work import problem_of

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
candidates = importlib.import_module("candidates")


@pytest.fixture
def timed(monkeypatch):
    """Everything that needs a GPU replaced; gives the calls that were timed."""
    timed = []

    def time_cold(call):
        call()
        timed.append(call)
        return 10.0 + len(timed)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda: SimpleNamespace(multi_processor_count=78)
    )
    monkeypatch.setattr("cute_gemm.bench.cases._MASKED_CAPACITY", 128)
    monkeypatch.setattr(candidates, "make_case", lambda op, shape: make_case(op, shape, "cpu"))
    monkeypatch.setattr(candidates, "calibration_call", lambda shape: lambda: None)
    monkeypatch.setattr(candidates, "compile_configs", list)
    monkeypatch.setattr(candidates, "time_cold", time_cold)
    return timed


OPS = {
    "dense_1d2d": (32, 136, 272),
    "m_grouped_contiguous": SMALL["contiguous"],
    "m_grouped_offsets": SMALL["contiguous"],
    "m_grouped_masked": SMALL["masked"],
}


@pytest.mark.parametrize(("op", "shape"), OPS.items())
def test_all_candidates_are_timed_and_must_agree(op, shape, timed, monkeypatch, tmp_path):
    launched, wrong = [], []

    def instance(config):
        def launch(a, sa, b, sb, out, num_sms, *grouping):
            launched.append(config)
            assert num_sms == 78
            if op == "dense_1d2d":
                cute_gemm.fp8_gemm_nt((a, sa), (b, sb), out)
            else:
                index, *alignment = grouping
                assert alignment == ([1] if op == "m_grouped_offsets" else [])
                rest = (20, out) if op == "m_grouped_masked" else (out,)
                operation = getattr(cute_gemm, op.replace("m_grouped", "m_grouped_fp8_gemm_nt"))
                operation((a, sa), (b, sb), index, *rest)
            if config.name in wrong:
                out.view(torch.int16)[..., 0, 0] += 1

        return launch

    monkeypatch.setattr(dispatch, "instance", instance)
    text = "x".join(map(str, shape))
    arguments = ["candidates.py", "--op", op, "--shapes", text, "--out", str(tmp_path / "rows.jsonl")]
    monkeypatch.setattr(sys, "argv", arguments)
    assert candidates.main() == 0
    suitable = [choice.config for choice in heuristics.rank(problem_of(op, shape, 78))]
    assert set(launched) == set(suitable)
    assert len(timed) == len(suitable) + 1
    rows = records.read_rows(tmp_path / "rows.jsonl")
    assert len(rows) == len(suitable)
    assert {records.shape_of(each) for each in rows} == {shape}
    assert {each["op"] for each in rows} == {op}
    assert rows[0]["cublaslt_us"] == len(suitable) + 11
    assert [each["us"] for each in rows] == [11 + i for i in range(len(rows))]

    wrong.append(suitable[-1].name)
    with pytest.raises(AssertionError, match=f"{suitable[-1].name} differs from {suitable[0].name}"):
        candidates.main()
