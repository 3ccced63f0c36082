"""Measures trials, judges every timed result, and writes rows as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..measure.calls import Call
from ..measure.cases import Case, make_case
from ..measure.console import in_a_line, say
from ..measure.layers import Chain, layers_of
from ..measure.records import (
    CHAIN,
    COLD,
    DENSE,
    M_MAJOR,
    OURS,
    OURS_DEPENDENT,
    OURS_INDEPENDENT,
    ROW_MAJOR,
    Row,
    write_rows,
)
from ..measure.timers import Timer, Times
from ..measure.work import Work, problem_of
from ..plan.card import Card
from ..plan.config import KernelConfig
from ..runtime import selection
from .peers import Peer
from .peers.cublas import Cublas, calibration_call, calibration_record, calibration_shape
from .rows import measurement
from .suite import Trial

_FORCED = {OURS_DEPENDENT: True, OURS_INDEPENDENT: False}
"""Ways to launch that are timed in a chain beside the default."""


@dataclass(frozen=True)
class Bench:
    """What all measurements of a run have in common.

    Args:
        timers: by regime.
        peers: who is timed beside us, where they take the problem.
        origin: ``versions``, ``device`` and ``date``.
        card: the device.
        device: where operands are made.
        say: prints a line.
    """

    timers: dict[str, Timer]
    peers: Sequence[Peer]
    origin: Row
    card: Card
    device: str = "cuda"
    say: Callable[[str], None] = say

    def measure(self, trial: Trial) -> Iterator[Row]:
        """The rows of a trial; all its calls take turns. A peer's wrong result makes a row that says so.

        Raises:
            AssertionError: behind all other rows: results of ours are wrong, and there are no rows of them.
            RuntimeError: a call of ours failed, or the timer did; there are no rows at all.
        """
        timed = [(Work.of(op, trial.shape), chain) for op in trial.ops for chain in self._chains(trial, op)]
        beside = self._calibration(trial)
        timer = self.timers[trial.regime]
        times = timer([chain for _, chain in timed] + ([beside] if beside else []))
        calibration = self._judged_calibration(trial, beside, times.pop().mean) if beside else None

        wrong = []
        for work, chain, total in _fastest(timed, times):
            call, found = chain.first, total.of_each(len(chain.calls))
            error, objection = None, None
            try:
                error = chain.error()
            except AssertionError as failure:
                objection = str(failure)
            if objection and call.peer in (OURS, *_FORCED):
                wrong.append(f"{work.op} {call.config} ({call.scale_layout}): {objection}")
                continue
            row = measurement(
                work,
                call.peer,
                found.mean,
                median=found.median,
                spread=found.spread,
                rounds=len(found.us),
                timer=timer.name,
                regime=trial.regime,
                scale_layout=call.scale_layout,
                config=call.config,
                error_worst_tile=error,
                origin=self.origin,
            )
            if len(chain.calls) > 1:
                row["layers"] = len(chain.calls)
            if objection:
                row["wrong"] = objection
            if calibration and call.peer == OURS:
                row["calibration"] = calibration
            yield row
        if wrong:
            raise AssertionError("; ".join(wrong))

    def _chains(self, trial: Trial, op: str) -> list[Chain]:
        """Each way to compute an operation: of one layer, or in a chain of as many as the regime asks for."""
        case = make_case(op, trial.shape, self.device)
        layers = layers_of(case) if trial.regime == CHAIN else [case]
        ways = zip(*(self._own_calls(trial, layer) for layer in layers), strict=True)
        chains = [Chain(calls) for calls in ways]
        return chains + [chain for peer in self.peers for chain in self._chains_of(peer, trial, layers)]

    def _own_calls(self, trial: Trial, case: Case) -> list[Call]:
        # A kernel that waits for the flush of L2 would have its wait in its time.
        pdl = False if trial.regime == COLD else None
        calls = [case.ours(layout, self.card, pdl) for layout in _layouts(trial)]
        if trial.regime == CHAIN:
            calls += [case.ours(M_MAJOR, self.card, pdl, name) for name, pdl in _FORCED.items()]
        return calls

    def _chains_of(self, peer: Peer, trial: Trial, layers: Sequence[Case]) -> list[Chain]:
        """Each way of a peer to compute all layers, none of which it refuses."""
        if trial.regime not in peer.regimes:
            return []
        try:
            ways = list(zip(*(peer.calls(layer) for layer in layers), strict=True))
        # What peers raise is their affair.
        except Exception as refusal:
            self._note(peer.name, refusal)
            return []
        return [Chain(calls) for calls in ways if all(map(self._takes, calls))]

    def _takes(self, call: Call) -> bool:
        try:
            call()
            if self.device != "cpu":
                torch.cuda.synchronize()
        except Exception as refusal:
            self._note(call.peer, refusal)
            return False
        if call.result is not None:
            call.result.fill_(torch.nan)
        return True

    def _calibration(self, trial: Trial) -> Call | None:
        """cuBLASLt, which has no grouped operation, at a dense shape beside a grouped one.

        It has figures to compare with of single calls alone.
        """
        if (
            trial.ops == (DENSE,)
            or trial.regime == CHAIN
            or not any(isinstance(peer, Cublas) for peer in self.peers)
        ):
            return None
        call = calibration_call(calibration_shape(trial.shape), self.device)
        return call if self._takes(call) else None

    def _judged_calibration(self, trial: Trial, call: Call, us: float) -> Row | None:
        try:
            call.error()
        except AssertionError as failure:
            self._note(call.peer, failure)
            return None
        return calibration_record(calibration_shape(trial.shape), us)

    def _note(self, peer: str, refusal: Exception) -> None:
        lines = str(refusal).strip().splitlines() or [type(refusal).__name__]
        self.say(f"  {peer}: refused: {lines[0]}")


def _fastest(timed: Sequence[tuple[Work, Chain]], times: Sequence[Times]) -> list[tuple[Work, Chain, Times]]:
    """Of several ways of one peer with the same scales, that which took the least time."""
    found: dict[tuple[str, str, str | None], tuple[Work, Chain, Times]] = {}
    for (work, chain), each in zip(timed, times, strict=True):
        key = work.op, chain.first.peer, chain.first.scale_layout
        if key not in found or each.mean < found[key][2].mean:
            found[key] = work, chain, each
    return list(found.values())


def kernels_of(trial: Trial, card: Card) -> Iterator[KernelConfig]:
    """What a trial launches of ours on ``card``."""
    for op in trial.ops:
        problem = problem_of(op, trial.shape, card)
        for layout in _layouts(trial):
            yield selection.select(problem, tma_scales=layout == M_MAJOR)


def run_trials(bench: Bench, trials: Iterable[Trial], directory: Path) -> tuple[list[Row], list[str]]:
    """Takes all measurements; each row is in its file before the next trial is measured.

    Args:
        bench: how.
        trials: what, those of one file together.
        directory: of the files, ``SUITE_REGIME.jsonl``. Each is replaced when its first trial starts.

    Returns:
        The rows, and what went wrong: a line for each trial that was left when it failed.
    """
    files: dict[Path, list[Row]] = {}
    failures: list[str] = []
    for trial in trials:
        path = directory / f"{trial.suite}_{trial.regime}.jsonl"
        if path not in files:
            write_rows(path, [])
        rows = files.setdefault(path, [])
        try:
            for row in bench.measure(trial):
                rows.append(row)
                write_rows(path, rows)
                bench.say(f"{trial.title} {_describe(row)}")
        except (AssertionError, RuntimeError) as error:
            failures.append(f"{trial.title}: {type(error).__name__}: {in_a_line(error)}")
            bench.say(f"FAILED {failures[-1]}")
    for path, rows in files.items():
        bench.say(f"{len(rows)} rows: {path}")
    return [row for rows in files.values() for row in rows], failures


def _layouts(trial: Trial) -> tuple[str, ...]:
    """Those of A's scales that ours are timed with: M-major, as DeepGEMM takes them; cold also row-major."""
    return (M_MAJOR, ROW_MAJOR) if trial.regime == COLD else (M_MAJOR,)


def _describe(row: Row) -> str:
    what = " ".join(filter(None, (row["op"], row["peer"], row["config"], row["scale_layout"])))
    wrong = f"; WRONG: {row['wrong']}" if "wrong" in row else ""
    return f"{what}: {row['us']:.2f} us, spread {row['spread']:.1%}, {row['tflops']:.0f} TFLOP/s{wrong}"
