"""Times the candidates of problems, and picks one for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..measure.console import in_a_line, say
from ..measure.errors import CommandError
from ..measure.files import named
from ..measure.records import CHAIN
from ..measure.statistics import geometric_mean
from ..measure.timers import Timer
from ..plan.config import KernelConfig
from ..plan.tuned import files
from ..plan.tuned.table import Entry, TunedError
from .calls import case_of, chains_of, checked_calls
from .tasks import TuningTask, configs_to_time

# Differences of less are noise: the model's order decides, and more M have the same configuration. Medians of
# what takes 10 us differ by 0.1 us from run to run, of what takes 500 by 0.3 %.
_TIE_US, _TIE = 0.1, 1.003


@dataclass(frozen=True)
class Pick:
    """What candidates of a problem took, by regime in microseconds, and the index of the best one.

    Of several sizes of groups, the geometric mean.
    """

    task: TuningTask
    configs: Sequence[KernelConfig]
    times: Mapping[str, Sequence[float]]
    best: int

    @property
    def entry(self) -> Entry:
        us = {f"{regime}_us": round(times[self.best], 2) for regime, times in self.times.items()}
        return Entry.of(self.task.problem, self.configs[self.best], **us)

    def describe(self) -> str:
        """One line: the best configuration, its times and what it gains over the one predicted to be best."""
        parts = [
            f"{times[self.best]:.2f} us {regime} ({times[self.best] / times[0] - 1:+.1%})"
            for regime, times in self.times.items()
        ]
        return f"{self.configs[self.best].name}: {', '.join(parts)}"


def pick(task: TuningTask, timers: Mapping[str, Timer], within: float, device: str = "cuda") -> Pick:
    """Check the candidates of a problem, time them in each regime, and pick one.

    Args:
        task: the problem.
        timers: by regime.
        within: as for `tasks.configs_to_time`.
        device: where operands are made.

    Raises:
        AssertionError: a candidate's result is wrong.
        RuntimeError: one cannot be launched or timed.
    """
    configs = configs_to_time(task.problem, within)

    def medians(sizes: Sequence[int]) -> dict[str, list[float]]:
        case = case_of(task, sizes, device)
        timed = dict.fromkeys(timers, (checked_calls(task.problem, configs, case), 1))
        if CHAIN in timers:
            timed[CHAIN] = chains_of(task.problem, configs, case)
        found = {}
        for regime, (calls, layers) in timed.items():
            found[regime] = [each.of_each(layers).median for each in timers[regime](calls)]
        return found

    draws = [medians(sizes) for sizes in task.draws]
    times = {regime: _geometric_means([draw[regime] for draw in draws]) for regime in timers}
    return Pick(task, configs, times, fastest(list(times.values())))


def fastest(times: Sequence[Sequence[float]]) -> int:
    """The index of the candidate that takes least time, over all regimes in the geometric mean.

    Args:
        times: of the candidates, in the order in which they are preferred, in each regime.
    """
    means = _geometric_means(times)
    return next(i for i, mean in enumerate(means) if mean <= _TIE * min(means) + _TIE_US)


def _geometric_means(times: Sequence[Sequence[float]]) -> list[float]:
    """Of each candidate, over the rows of ``times``."""
    return [geometric_mean(of_one) for of_one in zip(*times, strict=True)]


def tune_all(
    tasks: Iterable[TuningTask],
    timers: Mapping[str, Timer],
    within: float,
    path: Path,
    device_name: str,
    *,
    device: str = "cuda",
    say: Callable[[str], None] = say,
) -> list[str]:
    """Tune problems, each of which is in its file before the next is measured.

    Args:
        tasks, timers, within, device: as for `pick`.
        path, device_name: as for `keep`.
        say: prints a line.

    Returns:
        What went wrong: a line for each task that was left.

    Raises:
        CommandError: as `keep`.
    """
    failures = []
    for task in tasks:
        try:
            picked = pick(task, timers, within, device)
        except (AssertionError, RuntimeError) as error:
            failures.append(f"{task.title}: {type(error).__name__}: {in_a_line(error)}")
            say(f"FAILED {failures[-1]}")
            continue
        keep(path, device_name, [picked.entry])
        say(f"{task.title}: {picked.describe()}")
    return failures


def keep(path: Path, device_name: str, entries: Iterable[Entry]) -> Path | None:
    """As `tuned.files.merge`.

    Raises:
        CommandError: what is there is no file of choices, or it cannot be written.
    """
    try:
        return files.merge(path, device_name, entries)
    except (TunedError, OSError) as error:
        raise CommandError(f"cannot keep choices in {named(path)}: {in_a_line(error)}") from error
