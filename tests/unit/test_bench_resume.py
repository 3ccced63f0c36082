"""A run that was cut off is gone on with; and what makes no sense together, or twice, is seen at once."""

from types import SimpleNamespace

import pytest
from bench_rows import ORIGIN, grouped_row, row, stand_in_gpu

import cute_gemm
from cute_gemm import cli
from cute_gemm.bench import results
from cute_gemm.bench.resume import rest_of
from cute_gemm.bench.suite import plan
from cute_gemm.measure import records
from cute_gemm.measure.errors import CommandError
from cute_gemm.plan.layouts import DENSE
from cute_gemm.tune import tasks

SHAPES = [(8, 32, 128), (16, 32, 128), (24, 32, 128)]
TRIALS = plan(("dense",), ("cold",), shapes=SHAPES)


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the command as if the CPU were a Hopper GPU; gives status, standard output and standard error."""
    stand_in_gpu(monkeypatch, 78)

    def run(*arguments):
        given = ["--out", tmp_path, "--peers", "none", "--regime", "cold", *arguments]
        return SimpleNamespace(
            status=cli.main(["bench", *map(str, given)]),
            text=capsys.readouterr(),
        )

    return run


def interrupt_at(monkeypatch, rows):
    """Has a product of so many rows interrupted; gives the rows of all that are computed."""
    computed, real = [], cute_gemm.fp8_gemm_nt

    def product(lhs, rhs, out):
        if len(lhs[0]) == rows:
            raise KeyboardInterrupt
        computed.append(len(lhs[0]))
        return real(lhs, rhs, out)

    monkeypatch.setattr(cute_gemm, "fp8_gemm_nt", product)
    return computed


def test_a_run_that_was_cut_off_is_gone_on_with(run, monkeypatch, tmp_path):
    shapes = ["--shapes", "8x32x128", "16x32x128", "24x32x128"]
    with monkeypatch.context() as first:
        interrupt_at(first, 16)
        assert run(*shapes).status == 130
    kept = records.read_rows(tmp_path / "dense_cold.jsonl")
    assert [each["m"] for each in kept] == [8, 8]
    kept[0]["us"] = kept[0]["median"] = 77.0
    records.write_rows(tmp_path / "dense_cold.jsonl", kept)

    computed = interrupt_at(monkeypatch, 0)
    found = run(*shapes, "--resume")
    assert found.status == 0
    assert "1 of 3 trials are in" in found.text.out
    assert set(computed) == {16, 24}
    rows = results.read_results(tmp_path)
    assert [each["m"] for each in rows] == [8, 8, 16, 16, 24, 24]
    assert rows[0]["us"] == 77.0
    # Tables are of all.
    assert "| 8 | 32 | 128 |" in (tmp_path / "tables.md").read_text()

    # There is nothing left.
    computed.clear()
    found = run(*shapes, "--resume")
    assert (found.status, computed) == (0, [])
    assert results.read_results(tmp_path) == rows
    # Without that it begins anew.
    assert run("--shapes", "16x32x128").status == 0
    assert [each["m"] for each in results.read_results(tmp_path)] == [16, 16]


def test_a_trial_without_ours_is_measured_again(tmp_path):
    path = tmp_path / "dense_cold.jsonl"
    peer = {"peer": records.TRITON, "layout": None}
    before = [row(1.0, SHAPES[0]), row(2.0, SHAPES[1], **peer), row(3.0, (64, 2112, 7168))]
    records.write_rows(path, before)
    rest = rest_of(TRIALS, tmp_path, ORIGIN)
    assert [trial.shape for trial in rest.trials] == SHAPES[1:]
    # What this run does not measure stays.
    assert rest.kept == {path: [before[0], before[2]]}
    records.write_rows(path, [])
    assert rest_of(TRIALS, tmp_path, ORIGIN).kept == {path: []}
    assert rest_of(TRIALS, tmp_path / "nowhere", ORIGIN).trials == TRIALS


def test_operations_that_share_operands_are_measured_together_again(tmp_path):
    trials = plan(("grouped",), ("cold",), shapes=[(4, 100, 136, 272)])
    path = tmp_path / "grouped_cold.jsonl"
    before = [grouped_row(1.0, op, (4, 100, 136, 272)) for op in (records.CONTIGUOUS, records.MASKED)]
    records.write_rows(path, before)
    rest = rest_of(trials, tmp_path, ORIGIN)
    assert [trial.ops for trial in rest.trials] == [(records.CONTIGUOUS, records.OFFSETS)]
    assert rest.kept == {path: before[1:]}


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"device": "NVIDIA L4"}, "measured on NVIDIA L4, not NVIDIA H200: it cannot"),
        ({"versions": {"torch": "2.10.0"}}, "measured on torch 2.10.0, not 2.11.0: it cannot"),
        ({"us": -1}, "not a line of a benchmark"),
    ],
)
def test_what_was_measured_elsewhere_is_not_gone_on_with(more, complaint, run, tmp_path):
    path = tmp_path / "dense_cold.jsonl"
    records.write_rows(path, [row(1.0, SHAPES[0]) | more])
    found = run("--shapes", "8x32x128", "--resume")
    assert found.status == 1
    assert found.text.err.startswith(f"cute-gemm: {path}: ")
    assert complaint in found.text.err
    # Versions of what was not used then, or is not now, do not matter.
    rows = [row(1.0, SHAPES[0]) | {"versions": {"torch": "2.11.0", "triton": "3.8.0"}}]
    records.write_rows(path, rows)
    assert rest_of(TRIALS, tmp_path, ORIGIN).kept == {path: rows}


def test_what_is_asked_for_twice_is_measured_once(run, tmp_path):
    shapes = ["--shapes", "8x32x128", "8x32x128", "2x20x32x128", "2x20x32x128"]
    found = run(*shapes, "--ops", "m_grouped_masked", "m_grouped_masked")
    assert found.status == 0, found.text.err
    kinds = [(each["op"], each["scale_layout"]) for each in results.read_results(tmp_path)]
    assert len(kinds) == len(set(kinds)) == 4
    assert len(tasks.plan_shapes(DENSE, [(8, 32, 128)] * 2, "bfloat16", 132)) == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--plot", ".", "--suite", "dense"], "--suite says what is measured, and --plot measures nothing"),
        (["--plot", ".", "--peers", "none"], "--peers says what is measured"),
        (["--compare", ".", ".", "--shapes", "8x16"], "and --compare measures nothing"),
        (["--compare", ".", ".", "--resume"], "--resume says what is measured"),
        (["--compare", ".", ".", "--out", "x"], "--compare writes nothing, so --out does not go with it"),
        (["--threshold", "3"], "--threshold goes with --compare"),
        (["--plot", ".", "--threshold", "0"], "--threshold goes with --compare"),
    ],
)
def test_options_that_would_do_nothing_are_refused(arguments, complaint, capsys):
    assert cli.main(["bench", *arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith("cute-gemm: ")
    assert complaint in err


def test_files_of_another_kind_are_named(tmp_path):
    (tmp_path / "dense_cold.jsonl").mkdir()
    with pytest.raises(CommandError, match="no JSON lines in it"):
        rest_of(TRIALS, tmp_path, ORIGIN)


def test_a_run_on_a_card_keeps_what_it_measured_before_a_failure(run, monkeypatch, tmp_path):
    """Peers' rows of a shape at which ours are wrong are written, and the shape is measured again."""
    real = cute_gemm.fp8_gemm_nt

    def broken(lhs, rhs, out):
        return real(lhs, rhs, out).zero_() if len(lhs[0]) == 16 else real(lhs, rhs, out)

    with monkeypatch.context() as first:
        first.setattr(cute_gemm, "fp8_gemm_nt", broken)
        assert run("--shapes", "8x32x128", "16x32x128").status == 1
    assert run("--shapes", "8x32x128", "16x32x128", "--resume").status == 0
    assert [each["m"] for each in results.read_results(tmp_path)] == [8, 8, 16, 16]
