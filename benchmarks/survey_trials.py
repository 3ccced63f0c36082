"""Checks and times the candidates of a batch of problems."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from chain_times import time_chains
from operand_pool import OperandPool, Sample, layers_of
from survey_file import BEST, CHAIN_PDL, CHOSEN, CHOSEN_PDL, Again, Measured
from survey_plans import CHAIN_ROUNDS, CHAIN_US, ROUNDS, WARM_UP, Plan
from torch import Tensor

from cute_gemm.bench.peers import PROMOTED_LIMIT, Peer
from cute_gemm.measure import clocks, cold
from cute_gemm.measure.calls import Call
from cute_gemm.measure.cases import Case
from cute_gemm.measure.console import in_a_line, say
from cute_gemm.measure.layers import Chain
from cute_gemm.measure.records import CHAIN, COLD
from cute_gemm.plan.config import KernelConfig
from cute_gemm.tune.calls import chain_of, checked_calls

AGAIN_ROUNDS = 12

# So that no batch starts at the clocks that the one before left.
_REST_SECONDS = 0.05

Named = dict[str, Callable[[], object]]
"""Calls by what they go by in a row."""


def note(text: str) -> None:
    """Print a line to standard error."""
    say(text, sys.stderr)


@dataclass(frozen=True)
class Trial:
    """One problem's operands, and calls of its candidates.

    Args:
        plan: what is timed.
        cases: the operands of each layer.
        outs: where the result of each layer goes.
    """

    plan: Plan
    cases: Sequence[Case]
    outs: Sequence[Tensor]

    @staticmethod
    def of(plan: Plan, pool: OperandPool) -> Trial:
        layers = layers_of(plan.draw)
        return Trial(plan, pool.cases(plan.draw, layers), pool.results(plan.draw, layers))

    @cached_property
    def sample(self) -> Sample:
        """What a result of the first layer is judged by."""
        return Sample(self.cases[0], self.plan.draw)

    @cached_property
    def calls(self) -> list[Callable[[], None]]:
        """Of each candidate, on the first layer, its result checked.

        Raises:
            AssertionError: one is wrong.
        """
        plan = self.plan
        try:
            return checked_calls(plan.problem, plan.configs, self.cases[0], self.outs[0], self.sample.judge)
        except AssertionError as error:
            raise AssertionError(f"{plan.draw.title}: {error}") from error

    def chain(self, config: KernelConfig, pdl: bool) -> Callable[[], None]:
        """A candidate's calls of all layers."""
        return chain_of(self.plan.problem, config, self.cases, self.outs, pdl)

    def chain_times(self) -> list[tuple[float, float]]:
        """Microseconds of a layer of each candidate: as usual, and by dependent launch.

        Raises:
            AssertionError: a result differs from that of a call by itself.
            RuntimeError: a call cannot be captured.
        """
        ways = [self.chain(config, pdl) for config in self.plan.configs for pdl in (False, True)]
        wanted = [self._sampled(call) for call in self.calls]
        self.outs[0].fill_(torch.nan)

        def seen(place: int) -> None:
            """Layers that share memory for results leave those of the last."""
            if self.has_results_of_its_own and not torch.equal(self._sampled(), wanted[place // 2]):
                way = "by dependent launch" if place % 2 else "in a chain"
                config = self.plan.configs[place // 2]
                raise AssertionError(f"{self.plan.draw.title}: {config.name} differs {way}")
            self.outs[0].fill_(torch.nan)

        us = [each / len(self.cases) for each in time_chains(ways, CHAIN_ROUNDS, CHAIN_US, seen)]
        return list(zip(us[::2], us[1::2], strict=True))

    @property
    def has_results_of_its_own(self) -> bool:
        """Whether the first layer is the only one that writes its result."""
        first, *others = (out.data_ptr() for out in self.outs)
        return first not in others

    def _sampled(self, call: Callable[[], object] | None = None) -> Tensor:
        """The bits of the sample of the first layer's result, after a call if there is one."""
        if call is not None:
            call()
        return self.sample.of(self.outs[0]).view(torch.int16).clone()


def measure(pool: OperandPool, plans: Sequence[Plan], again: bool, peers: Sequence[Peer]) -> list[Measured]:
    """Check and time the candidates of some problems.

    Args:
        pool: has room for the operands.
        plans: what is timed.
        again: whether the chosen and the best candidates are timed once more, and ``peers`` beside them.
        peers: who else is timed.

    Returns:
        What was measured; problems that could not be timed are named on standard error and left out.

    Raises:
        AssertionError: a candidate's result is wrong.
    """
    trials = [Trial.of(plan, pool) for plan in plans]
    calls = [call for trial in trials for call in trial.calls]
    time.sleep(_REST_SECONDS)
    cold_us = _time_cold(calls, ROUNDS)
    if cold_us is None:
        note(
            f"left out, as they could not be timed cold: {', '.join(each.plan.draw.title for each in trials)}"
        )
        return []
    found = []
    at = 0
    for trial in trials:
        of_trial = cold_us[at : (at := at + len(trial.calls))]
        try:
            chain_us = trial.chain_times()
        except RuntimeError as error:
            note(f"left out: {trial.plan.draw.title}: {in_a_line(error)}")
            continue
        pairs = zip(trial.plan.configs, of_trial, chain_us, strict=True)
        times = {config.name: (us, *chains) for config, us, chains in pairs}
        found.append((trial, Measured(trial.plan.draw, times, trial.plan.chosen.name)))
    if not again:
        return [measured for _, measured in found]
    return _measured_again(found, peers)


def _time_cold(calls: Sequence[Callable[[], object]], rounds: int) -> list[float] | None:
    """Microseconds of each call; None where two profiles could not be trusted."""
    if not calls:
        return []
    for _ in range(2):
        try:
            return [each.median_us for each in cold.time_cold_together(calls, rounds, WARM_UP)]
        except RuntimeError as error:
            note(in_a_line(error)[:300])
    return None


def _measured_again(found: Sequence[tuple[Trial, Measured]], peers: Sequence[Peer]) -> list[Measured]:
    """Measured once more: what is compared, in samples that decided nothing."""
    cold_calls = [_cold_again(trial, measured, peers) for trial, measured in found]
    # What is both chosen and best is one call.
    different = {id(call): call for named in cold_calls for call in named.values()}
    cold_us = _time_cold([*different.values()], AGAIN_ROUNDS)
    if cold_us is None and peers:
        note(f"without peers, with which they could not be timed: {len(found)} problems")
        return _measured_again(found, ())
    if cold_us is None:
        note(f"could not be timed again: {len(found)} problems")
        return [measured for _, measured in found]
    us_of = dict(zip(different, cold_us, strict=True))
    complete = []
    for (trial, measured), named in zip(found, cold_calls, strict=True):
        again = {COLD: {name: us_of[id(call)] for name, call in named.items()}}
        # A peer that cannot be captured must not decide which problems choices are judged by.
        for beside in (peers, ()) if peers else (peers,):
            try:
                again[CHAIN] = _chain_again(trial, measured, beside)
                break
            except RuntimeError as error:
                note(f"not in a chain again: {trial.plan.draw.title}: {in_a_line(error)}")
        complete.append(Measured(measured.draw, measured.times, measured.chosen, again))
    return complete


def _cold_again(trial: Trial, measured: Measured, peers: Sequence[Peer]) -> Named:
    names = list(measured.times)
    fastest = min(range(len(names)), key=lambda i: measured.times[names[i]][0])
    ours: Named = {CHOSEN: trial.calls[names.index(measured.chosen)], BEST: trial.calls[fastest]}
    return ours | _of_peers(peers, COLD, trial, 1)


def _chain_again(trial: Trial, measured: Measured, peers: Sequence[Peer]) -> dict[str, float]:
    configs = {config.name: config for config in trial.plan.configs}
    ways = [(name, pdl) for name in measured.times for pdl in (False, True)]
    best = min(ways, key=lambda way: measured.times[way[0]][1 + way[1]])
    compared = {CHOSEN: (measured.chosen, False), CHOSEN_PDL: (measured.chosen, True), BEST: best}
    different = list(dict.fromkeys(compared.values()))
    theirs = _of_peers(peers, CHAIN, trial, len(trial.cases))
    chains = [trial.chain(configs[name], pdl) for name, pdl in different]
    times = time_chains([*chains, *theirs.values()], AGAIN_ROUNDS, CHAIN_US)
    us = [each / len(trial.cases) for each in times]
    ours = {name: us[different.index(way)] for name, way in compared.items()}
    return ours | dict(zip(theirs, us[len(different) :], strict=True))


def _of_peers(peers: Sequence[Peer], regime: str, trial: Trial, layers: int) -> Named:
    """Their calls of so many layers, one behind the other, by whose they are; what they refuse is noted."""
    found: Named = {}
    for peer in peers:
        if regime not in peer.regimes:
            continue
        try:
            for way in zip(*(peer.calls(case) for case in trial.cases[:layers]), strict=True):
                _check(way[0], trial.sample)
                found[way[0].peer] = Chain(way)
        # What peers raise is their affair.
        except Exception as refusal:
            note(f"{peer.name}: {trial.plan.draw.title}: {in_a_line(refusal)[:200]}")
    return found


def _check(call: Call, sample: Sample) -> None:
    """Make a peer's call, and raise AssertionError if its result is wrong."""
    call()
    clocks.synchronize()
    if call.result is None or not sample.error(call.result) <= PROMOTED_LIMIT:
        raise AssertionError("its result is wrong")


def judged(rows: Sequence[Measured]) -> dict[str, list[float]]:
    """By regime, how much longer than the best candidate the chosen one took: 1 where it is the best.

    Of what was timed again, where it was; else of the samples that told which is best.
    """
    found: dict[str, list[float]] = {COLD: [], CHAIN: [], CHAIN_PDL: []}
    for row in rows:
        for regime, ratio in (_again_ratios(row.again) if row.again else _ratios(row)).items():
            found[regime].append(ratio)
    return {regime: ratios for regime, ratios in found.items() if ratios}


def _again_ratios(again: Again) -> dict[str, float]:
    return {regime: us[CHOSEN] / us[BEST] for regime, us in again.items()}


def _ratios(row: Measured) -> dict[str, float]:
    columns = zip(*row.times.values(), strict=True)
    chosen = row.times[row.chosen]
    pairs = zip((COLD, CHAIN, CHAIN_PDL), columns, chosen, strict=True)
    return {regime: us / min(column) for regime, column, us in pairs}
