"""Rates are found again by what they predict."""

import importlib
import itertools
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cute_gemm.plan import cost_model
from cute_gemm.plan.card import H100
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.plan.rates import Rates, rates_of

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
fit_rates = importlib.import_module("fit_rates")

START = rates_of(H100)
SHAPES = list(itertools.product((1, 64, 128, 512, 2048), (576, 4096), (512, 7168)))


def taken(true: Rates) -> list[fit_rates.Example]:
    """What candidates take where rates are ``true``."""
    found = []
    for m, n, k in SHAPES:
        problem = GemmProblem(m, n, k)
        configs = [choice.config for choice in cost_model.rank(problem)[:12]]
        us = {config: cost_model.predict(problem, config, true).cost_us for config in configs}
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
