"""Rates are found again by what they predict."""

import importlib
import itertools
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cute_gemm.plan import cost_model
from cute_gemm.plan.card import H100
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.plan.rates import Rates, rates_of

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
fit_rates, drawn_shapes, survey_file = (
    importlib.import_module(name) for name in ("fit_rates", "drawn_shapes", "survey_file")
)

START = rates_of(H100)
SHAPES = list(itertools.product((1, 64, 128, 512, 2048), (576, 4096), (512, 7168)))


def taken(true: Rates) -> list[fit_rates.Example]:
    """What candidates take where rates are ``true``."""
    found = []
    for m, n, k in SHAPES:
        problem = GemmProblem(m, n, k)
        configs = [choice.config for choice in cost_model.rank(problem)[:12]]
        choices = cost_model.predict_all(problem, configs, true)
        us = {choice.config: choice.cost_us for choice in choices}
        found.append(fit_rates.Example("made up", problem, us))
    return found


def test_what_the_rates_predict_is_chosen_right() -> None:
    given = taken(START)
    assert fit_rates.regrets(START, given) == {"made up": [1.0] * len(SHAPES)}
    for factor in (0.7, 1.4):
        off = replace(START, dram_bytes_per_us=factor * START.dram_bytes_per_us)
        assert fit_rates.loss(off, given) > fit_rates.loss(START, given)


def test_other_rates_are_found_by_what_was_taken() -> None:
    """Slow memory, and low tiles that are cheap: both change choices."""
    true = replace(
        START,
        dram_bytes_per_us=START.dram_bytes_per_us / 2,
        k_block_us={**START.k_block_us, 64: (0.03, 0.09)},
    )
    given = taken(true)
    before, found = fit_rates.loss(START, given), fit_rates.fit(START, given, 6)
    least = fit_rates.loss(true, given)
    assert fit_rates.loss(found, given) - least < 0.2 * (before - least)
    assert found.dram_bytes_per_us == pytest.approx(true.dram_bytes_per_us, rel=0.15)
    assert found.filled == START.filled
    worst = [max(fit_rates.regrets(each, given)["made up"]) for each in (found, START)]
    assert worst[0] < 1.03 < worst[1]


def test_a_rate_that_is_small_is_found_too() -> None:
    true = replace(START, same_line_us=2 * START.same_line_us)
    found = fit_rates.fit(START, taken(true), 4)
    assert found.same_line_us == pytest.approx(true.same_line_us, rel=0.2)


def test_a_rate_of_nothing_may_become_something() -> None:
    true = replace(START, sum_us=(0.5, START.sum_us[1]))
    assert START.sum_us[0] == 0
    assert fit_rates.fit(START, taken(true), 4).sum_us[0] > 0


def test_numbers_of_rates_are_found_and_replaced() -> None:
    value = {"a": 1.0, "b": (2.0, 3.0), "c": {8: (4.0,), "x": 5.0}}
    paths = list(fit_rates.places(value))
    assert [fit_rates.number_at(value, path) for path in paths] == [1.0, 2.0, 3.0, 4.0, 5.0]
    for path in paths:
        changed = fit_rates.with_number(value, path, 9.0)
        assert {other for other in paths if fit_rates.number_at(changed, other) == 9.0} == {path}
        assert type(changed["b"]) is type(changed["c"][8]) is tuple


def test_timings_of_candidates_are_examples() -> None:
    found = fit_rates.examples()
    assert {example.run for example in found} >= {"dense", "m_grouped_masked"}
    assert all(example.best_us == min(example.us.values()) > 0 for example in found)


def test_surveys_are_examples(tmp_path: Path) -> None:
    draw = drawn_shapes.Draw("dense_1d2d", 4096, 512, (64,))
    problem = draw.problem(H100)
    one, other = (choice.config for choice in cost_model.rank(problem)[:2])
    times = {one.name: (9.0, 4.0, 5.0), other.name: (8.0, 4.5, 2.0), "gone": (1.0, 1.0, 1.0)}
    path = tmp_path / "some.jsonl"
    with path.open("w") as stream:
        file = survey_file.SurveyFile(stream, {"card": asdict(H100)})
        file.add(survey_file.Measured(draw, times, one.name))
    (found,) = fit_rates.examples_of_survey(path)
    assert (found.run, found.problem) == ("some", problem)
    assert found.us == {one: pytest.approx(6.0), other: pytest.approx(4.0)}


def test_a_survey_is_fitted_and_another_one_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("fitted_to", "judge"):
        with (tmp_path / f"{name}.jsonl").open("w") as stream:
            file = survey_file.SurveyFile(stream, {"card": asdict(H100)})
            for n in (512, 4096):
                draw = drawn_shapes.Draw("dense_1d2d", n, 512, (64,))
                names = [choice.config.name for choice in cost_model.rank(draw.problem(H100))[:3]]
                times = {each: (5.0 + i, 5.0 + i, 5.0 + i) for i, each in enumerate(names)}
                file.add(survey_file.Measured(draw, times, names[0]))
    paths = [str(tmp_path / f"{name}.jsonl") for name in ("fitted_to", "judge")]
    given: list[list[fit_rates.Example]] = []
    monkeypatch.setattr(fit_rates, "fit", lambda start, examples, rounds: given.append(examples) or start)
    monkeypatch.setattr(sys, "argv", ["fit_rates.py", *paths, "--held-out", "judge"])
    assert fit_rates.main() == 0
    assert [example.run for example in given[0]] == ["fitted_to"] * 2
    out = capsys.readouterr().out
    assert out.count("judge") == out.count("fitted_to") == 2
    assert f"'launch_us': {START.launch_us}" in out
    monkeypatch.setattr(sys, "argv", ["fit_rates.py", *paths, "--held-out", "another"])
    with pytest.raises(SystemExit):
        fit_rates.main()
    assert "there is no file another" in capsys.readouterr().err
