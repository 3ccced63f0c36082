"""Fits the rates of a card to what candidates took on it. No GPU needed.

    python benchmarks/fit_rates.py survey.jsonl more.jsonl --folds 3            # how good choices are
    python benchmarks/fit_rates.py survey.jsonl more.jsonl --out rates.json     # what the package reads
    python benchmarks/fit_rates.py                              # what benchmarks/candidates has of an H100

Reads surveys, of whose regimes the geometric mean counts, or the timings in benchmarks/candidates. Prints
for each file, and with --folds for problems that were left out, how much longer what is chosen takes than the
fastest candidate: the mean, and the 95th percentile.

What is minimised is smooth, as a choice is not. Candidates weigh more the nearer their prediction is to the
least. The loss is the mean of the logarithms of their times over that of the fastest, by these weights, and a
share of how far predictions of what is nearly fastest are off. An error that all candidates of a problem
share counts little, as clocks differ from problem to problem. Factors far from 1 and curves that bend are
penalised.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cost_model as candidate_times
import torch
from cost_tensors import KNOTS, Examples, Parameters
from survey_file import read_measured

from cute_gemm.measure.statistics import percentile
from cute_gemm.measure.work import problem_of
from cute_gemm.plan import candidates, cost_model, rates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import LAYOUTS
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.plan.rates import Rates

SHARPNESS = 0.03  # a prediction that is so much longer, as a share, weighs 1 / e
NEAR = 0.12  # the same of a time, for how far off predictions are
ACCURACY, COMMON = 0.3, 0.03  # what that counts beside the choice: without what is common, and with it
FAR, BENT = 1e-3, 1e-3  # penalties of squares of factors' logarithms, and of second differences
STEPS, STEP = 800, 0.02
LEAST_TO_BEND = 1000  # problems; of offsets 540 were too few, and 1112 are not (docs/performance.md, 87)


@dataclass(frozen=True)
class Example:
    """A problem, and what candidates for it took."""

    run: str
    problem: GemmProblem
    us: Mapping[KernelConfig, float]

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
            if name in configs and candidates.is_candidate(problem, configs[name])
        }
        if us:
            yield Example(path.stem, problem, us)


def regrets(found: Rates, given: Iterable[Example]) -> dict[str, list[float]]:
    """By run: of each problem, what is chosen over the fastest."""
    by_run: dict[str, list[float]] = defaultdict(list)
    for example in given:
        predicted = cost_model.predict_all(example.problem, example.us, found)
        chosen = min(predicted, key=lambda choice: choice.fitted_us).config
        by_run[example.run].append(example.us[chosen] / example.best_us)
    return by_run


def loss(rows: Examples, predicted: torch.Tensor) -> torch.Tensor:
    """How much longer choices take, and how far off predictions are."""
    guess, took = predicted.log(), rows.us.log()
    over = took - rows.least(took)[rows.problem]
    chance = torch.exp((rows.least(guess.detach())[rows.problem] - guess) / SHARPNESS)
    longer = rows.total(chance / rows.total(chance)[rows.problem] * over).mean()
    near = torch.exp(-over / NEAR)
    off = guess - took
    common = (rows.total(near * off) / rows.total(near))[rows.problem]
    return longer + sum(
        share * torch.sqrt((near * error**2).sum() / near.sum())
        for share, error in ((ACCURACY, off - common), (COMMON, off))
    )


def penalty(parameters: Parameters) -> torch.Tensor:
    """Of factors far from 1, and of curves that bend."""
    total = FAR * (parameters["tiles"] ** 2).sum()
    for name in KNOTS:
        curve = parameters[name]
        bends = curve[:, 2:] - 2 * curve[:, 1:-1] + curve[:, :-2]
        total = total + BENT * (bends**2).sum() + 0.03 * FAR * (curve**2).sum()
    return total


def fit(start: Rates, given: Sequence[Example], steps: int = STEPS, bends: bool = True) -> Rates:
    """Rates and factors, by Adam (D. P. Kingma and J. L. Ba, ICLR 2015) on all of ``given`` at once.

    Args:
        start: to begin with.
        given: what they are fitted to.
        steps: so many.
        bends: whether there are curves.
    """
    rows = Examples([(example.problem, example.us) for example in given])
    parameters = rows.parameters(start)
    fitted = [each for name, each in parameters.items() if bends or name not in KNOTS]
    adam = torch.optim.Adam(fitted, lr=STEP)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        adam.zero_grad()
        (loss(rows, rows.predicted(parameters)) + penalty(parameters)).backward()
        adam.step()
        cosine.step()
    return rows.rates(parameters)


def left_out(start: Rates, given: Sequence[Example], folds: int, steps: int, bends: bool) -> list[float]:
    """What is chosen over the fastest, of each problem by rates that were fitted to other ones."""
    found = []
    for fold in range(folds):
        fitted = fit(start, [each for i, each in enumerate(given) if i % folds != fold], steps, bends)
        found += [each for of_run in regrets(fitted, given[fold::folds]).values() for each in of_run]
    return found


def report(label: str, of_problems: Sequence[float]) -> None:
    late = percentile(of_problems, 0.95)
    print(
        f"  {label:24} {len(of_problems):4} problems: mean {statistics.mean(of_problems):.4f}, "
        f"95th percentile {late:.3f}, largest {max(of_problems):.3f}",
        flush=True,
    )


def json_of(found: Rates) -> dict[str, object]:
    """As `rates.rates_of_json` reads it."""
    fields = {name: value for name, value in asdict(found).items() if name != "factors"}
    return {"rates": fields, "tiles": found.factors.tiles, "families": found.factors.knots}


def rendered(value: object, indent: int = 0, depth: int = 4) -> str:
    """JSON with a line for each thing that has no more than numbers."""
    if not isinstance(value, dict) or depth == 0:
        return json.dumps(value)
    pad = " " * (indent + 1)
    lines = [
        f"{pad}{json.dumps(str(name))}: {rendered(each, indent + 1, depth - 1)}"
        for name, each in value.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n" + " " * indent + "}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("surveys", nargs="*", type=Path, help="files of survey.py, of one card")
    parser.add_argument(
        "--held-out", nargs="*", default=[], metavar="NAME", help="files, without .jsonl, to judge alone"
    )
    parser.add_argument("--folds", type=int, default=0, help="judge by problems left out, in so many parts")
    parser.add_argument("--steps", type=int, default=STEPS, help="of a fit (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="the file of rates to write")
    options = parser.parse_args(argv)
    every = [each for path in options.surveys for each in examples_of_survey(path)] or examples()
    if unknown := set(options.held_out) - {example.run for example in every}:
        parser.error(f"there is no file {', '.join(sorted(unknown))}")
    card = every[0].problem.card
    file: dict[str, object] = {"card": asdict(card)}
    for layout in LAYOUTS.values():
        given = [each for each in every if each.problem.layout is layout]
        fitted_to = [each for each in given if each.run not in options.held_out]
        if not fitted_to:
            continue
        start = rates.rates_of(card, layout)
        # Where sizes of groups are not known, curves of few problems follow what is by chance.
        bends = not layout.is_grouped or len(fitted_to) >= LEAST_TO_BEND
        print(f"{layout.name}, as it is")
        for run, of_run in regrets(start, given).items():
            report(run, of_run)
        if options.folds:
            report("left out", left_out(start, fitted_to, options.folds, options.steps, bends))
        found = fit(start, fitted_to, options.steps, bends)
        print(f"{layout.name}, fitted")
        for run, of_run in regrets(found, given).items():
            report(run, of_run)
        file[layout.name] = json_of(found)
    if options.out:
        options.out.write_text(rendered(file) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
