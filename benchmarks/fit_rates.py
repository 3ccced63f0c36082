"""Fits the rates of a card to what candidates took on it. No GPU needed.

    python benchmarks/fit_rates.py survey.jsonl judge.jsonl --held-out judge
    python benchmarks/fit_rates.py --held-out dense_held_out dense_drawn    # what benchmarks/candidates has

Reads surveys, of whose regimes the geometric mean counts, or the timings in benchmarks/candidates. Changes
one rate after the other by some percent as long as choices get better on the files that are not held out.
Prints the rates that it ends with, to be written into `cute_gemm/plan/rates.py`; and for each file how much
longer what is chosen takes than the fastest candidate.

What is minimised is smooth, as a choice is not. Candidates weigh more the nearer their prediction is to the
least; the loss is the mean of the logarithms of their times over that of the fastest, by these weights, and a
share of how far predictions of what is nearly fastest are off.
"""

from __future__ import annotations

import argparse
import math
import pprint
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cost_model as candidate_times
from survey_file import read_measured

from cute_gemm.measure.work import problem_of
from cute_gemm.plan import candidates, cost_model, rates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.plan.rates import Rates

SHARPNESS = 0.03  # a prediction that is so much longer, as a share, weighs 1 / e
NEAR = 0.15  # the same of a time, for how far off predictions are
ACCURACY = 0.15  # what that counts beside the choice
FIRST_STEP, LEAST_STEP = 0.2, 0.002
FIXED = {"filled"}  # counted, not fitted
# Rates of 0 are tried from here.
LEAST = 0.02


@dataclass(frozen=True)
class Example:
    """A problem, and what candidates for it took."""

    run: str
    problem: GemmProblem
    us: dict[KernelConfig, float]

    @property
    def best_us(self) -> float:
        return min(self.us.values())


def examples() -> list[Example]:
    """What benchmarks/candidates has."""
    found = []
    for (run, op, shape), times in candidate_times.timings().items():
        problem = problem_of(op, shape)
        configs = {
            candidate_times.tile_of(config): config
            for config in candidates.all_configs(problem.out_dtype, problem.layout)
        }
        us = {configs[tile]: us for tile, us in times.items() if tile in configs}
        found.append(Example(run, problem, us))
    return found


def examples_of_survey(path: Path) -> Iterator[Example]:
    """A survey's problems; the layers of a chain are launched in the way that is faster."""
    for problem, each in read_measured(path):
        configs = {
            config.name: config for config in candidates.all_configs(problem.out_dtype, problem.layout)
        }
        us = {
            configs[name]: math.sqrt(cold * min(chains))
            for name, (cold, *chains) in each.times.items()
            if name in configs
        }
        yield Example(path.stem, problem, us)


def predictions(found: Rates, example: Example) -> list[float]:
    """Of each configuration, in order."""
    return [each.cost_us for each in cost_model.predict_all(example.problem, example.us, found)]


def loss(found: Rates, given: Sequence[Example]) -> float:
    """How much longer choices take, and how far off predictions are."""
    longer, errors, weights = 0.0, 0.0, 0.0
    for example in given:
        predicted = predictions(found, example)
        least = min(predicted)
        chances = [(us / least) ** (-1 / SHARPNESS) for us in predicted]
        every = sum(chances)
        for chance, guess, us in zip(chances, predicted, example.us.values(), strict=True):
            over = math.log(us / example.best_us)
            longer += chance / every * over
            near = math.exp(-over / NEAR)
            errors += near * math.log(guess / us) ** 2
            weights += near
    return longer / len(given) + ACCURACY * math.sqrt(errors / weights)


def regrets(found: Rates, given: Iterable[Example]) -> dict[str, list[float]]:
    """By run: of each problem, what is chosen over the fastest."""
    by_run: dict[str, list[float]] = defaultdict(list)
    for example in given:
        predicted = predictions(found, example)
        _, chosen = min(zip(predicted, example.us.values(), strict=True), key=lambda pair: pair[0])
        by_run[example.run].append(chosen / example.best_us)
    return by_run


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is a number in what `dataclasses.asdict` makes of rates."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from places(each, (*path, key))
    elif isinstance(value, tuple):
        for index, each in enumerate(value):
            yield from places(each, (*path, index))
    else:
        yield path


def number_at(value: Any, path: tuple[Any, ...]) -> float:
    for key in path:
        value = value[key]
    return float(value)


def with_number(value: Any, path: tuple[Any, ...], number: float) -> Any:
    """The same with another number at a place."""
    if not path:
        return number
    key, *rest = path
    changed = with_number(value[key], tuple(rest), number)
    if isinstance(value, tuple):
        return (*value[:key], changed, *value[key + 1 :])
    return {**value, key: changed}


def fit(start: Rates, given: Sequence[Example], most_rounds: int) -> Rates:
    """Pattern search (R. Hooke and T. A. Jeeves, J. ACM 8, 1961), one rate at a time, by factors."""
    best = asdict(start)
    least = loss(start, given)
    steps = {path: FIRST_STEP for path in places(best) if path[0] not in FIXED}
    for _ in range(most_rounds):
        for path, step in steps.items():
            number = number_at(best, path) or LEAST
            for factor in (1 + step, 1 / (1 + step)):
                changed = with_number(best, path, number * factor)
                found = loss(Rates(**changed), given)
                if found < least:
                    best, least = changed, found
                    steps[path] = step * 1.3
                    break
            else:
                steps[path] = step / 2
        if max(steps.values()) < LEAST_STEP:
            break
    return Rates(**best)


def report(label: str, found: Rates, given: Sequence[Example]) -> None:
    print(f"{label}: loss {loss(found, given):.4f}")
    for run, each in regrets(found, given).items():
        print(f"  {run:24} {len(each):4} problems: mean {statistics.mean(each):.4f}, largest {max(each):.3f}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("surveys", nargs="*", type=Path, help="files of survey.py, of one card")
    parser.add_argument(
        "--held-out", nargs="*", default=[], metavar="NAME", help="files, without .jsonl, to judge alone"
    )
    parser.add_argument("--rounds", type=int, default=20, help="at most (default: %(default)s)")
    options = parser.parse_args()
    every = [each for path in options.surveys for each in examples_of_survey(path)] or examples()
    if unknown := set(options.held_out) - {example.run for example in every}:
        parser.error(f"there is no file {', '.join(sorted(unknown))}")
    start = rates.rates_of(every[0].problem.card)
    report("as it is", start, every)
    found = fit(start, [each for each in every if each.run not in options.held_out], options.rounds)
    report("fitted", found, every)
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    pprint.pprint(values, sort_dicts=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
