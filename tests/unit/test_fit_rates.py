"""Rates are found again by what they predict, by a model over tensors that predicts what the package does."""

import importlib
import itertools
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from levels import cases

from cute_gemm.plan import cost_model
from cute_gemm.plan.card import H100
from cute_gemm.plan.layouts import DENSE, LAYOUTS, Layout
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.plan.rates import Rates, rates_of, rates_of_json

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
fit_rates, cost_tensors, drawn_shapes, survey_file = (
    importlib.import_module(name) for name in ("fit_rates", "cost_tensors", "drawn_shapes", "survey_file")
)

START = rates_of(H100, DENSE)
SHAPES = list(itertools.product((1, 64, 128, 512, 2048), (576, 4096), (512, 7168)))


def taken(true: Rates, layout: Layout = DENSE) -> list[fit_rates.Example]:
    """What candidates take where rates are ``true``."""
    found = []
    for m, n, k in SHAPES:
        problem = GemmProblem(m, n, k, layout=layout, groups=3 if layout.is_grouped else 1)
        configs = [choice.config for choice in cost_model.rank(problem)[:12]]
        choices = cost_model.predict_all(problem, configs, true)
        us = {choice.config: choice.fitted_us for choice in choices}
        found.append(fit_rates.Example("made up", problem, us))
    return found


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
def test_tensors_predict_what_the_package_does(layout: Layout) -> None:
    given = taken(START, layout)
    rows = fit_rates.Examples([(example.problem, example.us) for example in given])
    parameters = rows.parameters(rates_of(H100, layout))
    random = torch.Generator().manual_seed(0)
    for each in parameters.values():
        each.data += 0.2 * torch.randn(each.shape, generator=random)
    rates = rows.rates(parameters)
    predicted = rows.predicted(rows.parameters(rates)).tolist()
    choices = [
        choice.fitted_us
        for example in given
        for choice in cost_model.predict_all(example.problem, example.us, rates)
    ]
    assert predicted == pytest.approx(choices)
    # All of them count.
    assert len({round(us, 6) for us in choices}) > 0.8 * len(choices)


def test_what_the_rates_predict_is_chosen_right() -> None:
    given = taken(START)
    assert fit_rates.regrets(START, given) == {"made up": [1.0] * len(SHAPES)}


@pytest.mark.thorough
def test_other_rates_are_found_by_what_was_taken() -> None:
    """Slow memory, and tiles that cost what they did not: both change choices."""
    tiles = {
        name: (k * (1.3 if name.startswith("64") else 1.0), tile * 1.2)
        for name, (k, tile) in START.factors.tiles.items()
    }
    true = replace(
        START,
        dram_bytes_per_us=START.dram_bytes_per_us / 2,
        factors=replace(START.factors, tiles=tiles),
    )
    given = taken(true)
    found = fit_rates.fit(START, given, 300)
    before, after = (fit_rates.regrets(each, given)["made up"] for each in (START, found))
    assert max(after) < 1.03 < max(before)
    # Few of these shapes wait for memory.
    assert found.dram_bytes_per_us < 1.3 * true.dram_bytes_per_us
    # Without curves these stay as they were.
    plain = fit_rates.fit(START, given, 5, bends=False)
    assert plain.factors.knots == {
        name: {curve: [(x, pytest.approx(y, rel=1e-3)) for x, y in knots] for curve, knots in curves.items()}
        for name, curves in START.factors.knots.items()
        if name in plain.factors.knots
    }
    assert plain.factors.tiles != START.factors.tiles


def test_a_loss_is_less_for_better_predictions_and_choices() -> None:
    given = taken(START)
    rows = fit_rates.Examples([(example.problem, example.us) for example in given])
    right = rows.us.clone()
    assert fit_rates.loss(rows, right) < fit_rates.loss(rows, right * 1.2) < fit_rates.loss(rows, 1 / right)
    noise = torch.exp(0.1 * torch.randn(len(right), generator=torch.Generator().manual_seed(0)))
    assert fit_rates.loss(rows, right * 1.2) < fit_rates.loss(rows, right * noise)


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
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("fitted_to", "judge"):
        with (tmp_path / f"{name}.jsonl").open("w") as stream:
            file = survey_file.SurveyFile(stream, {"card": asdict(H100)})
            for n in (512, 1024, 2048, 4096):
                draw = drawn_shapes.Draw("dense_1d2d", n, 512, (64,))
                choices = cost_model.rank(draw.problem(H100))[:4]
                # What is predicted to be slowest is fastest.
                times = {each.config.name: (5.0 - i, 5.0 - i, 5.0 - i) for i, each in enumerate(choices)}
                file.add(survey_file.Measured(draw, times, choices[0].config.name))
    paths = [str(tmp_path / f"{name}.jsonl") for name in ("fitted_to", "judge")]
    out = tmp_path / "rates.json"
    arguments = [*paths, "--held-out", "judge", "--folds", "2", "--steps", "40", "--out", str(out)]
    assert fit_rates.main(arguments) == 0
    text = capsys.readouterr().out
    assert text.count("judge") == text.count("fitted_to") == 2
    assert "left out" in text
    before, after = (line.split("mean ")[1][:6] for line in text.splitlines() if "judge" in line)
    assert float(before) == 2.5
    assert float(after) < 1.2
    written = json.loads(out.read_text())
    assert written["card"]["name"] == H100.name
    assert list(written) == ["card", "dense"]
    assert rates_of_json(written["dense"]).launch_us == written["dense"]["rates"]["launch_us"]
    with pytest.raises(SystemExit):
        fit_rates.main([*paths, "--held-out", "another"])
    assert "there is no file another" in capsys.readouterr().err


LONGER = [("dense", 1.012), ("contiguous", 1.02), ("offsets", 1.03), ("masked", 1.03)]


@pytest.mark.parametrize(("name", "longer"), cases(LONGER, usual=LONGER[:2]))
def test_choices_by_the_packaged_rates_are_near_the_fastest_of_the_surveys(name: str, longer: float) -> None:
    layout = LAYOUTS[name]
    surveys = sorted((Path(__file__).parents[2] / "benchmarks" / "surveys").glob("nvidia_h200_*.jsonl"))
    every = (each for path in surveys for each in fit_rates.examples_of_survey(path))
    given = [each for each in every if each.problem.layout is layout]
    assert len(given) >= 298
    if layout is DENSE:
        given = given[::4]
    rates = rates_of(given[0].problem.card, layout)
    found = [each for of_run in fit_rates.regrets(rates, given).values() for each in of_run]
    assert sum(found) / len(found) < longer
