"""Measures trials, judges every timed result, and writes rows as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..measure import clocks, layers
from ..measure.calls import Call
from ..measure.cases import Case, make_case
from ..measure.console import in_a_line, say
from ..measure.expert_layers import LayerCase, plain_products, products
from ..measure.gradients import GradientCase
from ..measure.layers import Chain, layers_of
from ..measure.quantizing import QuantizerCase
from ..measure.quantizing import kernel_of as quantizer_of
from ..measure.records import (
    CHAIN,
    COLD,
    DENSE,
    GRADIENTS,
    M_MAJOR,
    OURS,
    OURS_DEPENDENT,
    OURS_INDEPENDENT,
    QUANTIZERS,
    ROW_MAJOR,
    ROWS,
    Row,
    write_rows,
)
from ..measure.timers import Timer, Times
from ..measure.work import Work, problem_of
from ..plan.card import Card
from ..plan.config import KernelConfig
from ..plan.limits import ceil_div
from ..plan.quantizer import Quantizer
from ..runtime import selection
from . import shares
from .peers import C, GradientPeer, LayerPeer, Peer, PeerOf, QuantizerPeer
from .peers.cublas import Cublas, calibration_call, calibration_record, calibration_shape
from .resume import file_of
from .rows import measurement
from .suite import PRODUCT, Trial

_FORCED = {OURS_DEPENDENT: True, OURS_INDEPENDENT: False}
"""Ways to launch that are timed in a chain beside the default."""


@dataclass(frozen=True)
class Bench:
    """What all measurements of a run have in common.

    Args:
        timers: by regime.
        peers: who is timed beside our products, where they take the problem.
        origin: ``versions``, ``device`` and ``date``.
        card: the device.
        device: where operands are made.
        say: prints a line.
        quantizers: who is timed beside our quantisers.
        layers: who is timed beside our expert layers.
        gradients: who is timed beside our products that make gradients of weights.
        host_time: microseconds of a call's caller.
    """

    timers: dict[str, Timer]
    peers: Sequence[Peer]
    origin: Row
    card: Card
    device: str = "cuda"
    say: Callable[[str], None] = say
    quantizers: Sequence[QuantizerPeer] = ()
    layers: Sequence[LayerPeer] = ()
    gradients: Sequence[GradientPeer] = ()
    host_time: Callable[[Callable[[], object]], float] = clocks.host_time

    def measure(self, trial: Trial) -> Iterator[Row]:
        """The rows of a trial; all its calls take turns. A peer's wrong result makes a row that says so.

        Raises:
            AssertionError: behind all other rows: results of ours are wrong, and there are no rows of them.
            RuntimeError: a call of ours failed, or the timer did; there are no rows at all.
        """
        timed = [(Work.of(op, trial.shape), chain) for op in trial.ops for chain in self._chains(trial, op)]
        beside = self._calibration(trial)
        timer = self.timers[trial.regime]
        alone = [(chain, name, stage) for _, chain in timed for name, stage in chain.stages().items()]
        calls: list[Callable[[], None]] = [chain for _, chain in timed]
        times = timer([*calls, *(stage for _, _, stage in alone), *([beside] if beside else [])])
        calibration = self._judged_calibration(trial, beside, times.pop().mean) if beside else None
        stages: dict[int, Row] = {}
        for (chain, name, _), found in zip(alone, times[len(timed) :], strict=True):
            stages.setdefault(id(chain), {})[name] = round(found.of_each(chain.count).mean, 3)

        wrong, rows = [], []
        for work, chain, total in _fastest(timed, times[: len(timed)]):
            call, found = chain.first, total.of_each(chain.count)
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
            if call.stages:
                row["stages"] = stages[id(chain)]
            if chain.count > 1:
                row["layers"] = chain.count
            if objection:
                row["wrong"] = objection
            if calibration and call.peer == OURS:
                row["calibration"] = calibration
            if trial.is_of_quantizers and trial.regime == CHAIN and call.peer == OURS:
                # Of few rows, so that the device keeps up.
                row |= shares.host_times(call, self.host_time, self.device)
            rows.append(row)
        yield from shares.with_shares(rows) if trial.is_of_quantizers else rows
        if wrong:
            raise AssertionError("; ".join(wrong))

    def _chains(self, trial: Trial, op: str) -> list[Chain]:
        """Each way to compute an operation: of one layer, or in a chain of as many as the regime asks for."""
        if trial.is_of_quantizers:
            return self._chains_of_quantizers(trial, QuantizerCase.make(op, trial.shape, self.device))
        if trial.is_of_layers:
            return self._chains_of_layers(trial, LayerCase.make(trial.shape, self.device, _pdl(trial)))
        if trial.is_of_gradients:
            return self._chains_of_gradients(trial, GradientCase.make(op, trial.shape, self.device))
        case = make_case(op, trial.shape, self.device)
        cases = layers_of(case) if trial.regime == CHAIN else [case]
        ways = zip(*(self._own_calls(trial, layer) for layer in cases), strict=True)
        chains = [Chain(calls) for calls in ways]
        return chains + [Chain(way) for peer in self.peers for way in self._ways_of(peer, trial, cases)]

    def _chains_of_quantizers(self, trial: Trial, case: QuantizerCase) -> list[Chain]:
        """The same of a quantiser, which has no weights: in a chain a call is repeated."""
        ways = [[case.ours(layout, _pdl(trial))] for layout in _layouts(trial, case.op)]
        ways += [way for peer in self.quantizers for way in self._ways_of(peer, trial, [case])]
        repeats = layers.QUANTIZER_CALLS if trial.regime == CHAIN else 1
        return [Chain(way, repeats) for way in ways]

    def _chains_of_layers(self, trial: Trial, case: LayerCase) -> list[Chain]:
        """The same of an expert layer, whose few calls in a chain are repeated."""
        cases = case.chain() if trial.regime == CHAIN else [case]
        ways = [[each.ours(self.card) for each in cases]]
        ways += [way for peer in self.layers for way in self._ways_of(peer, trial, cases)]
        repeats = ceil_div(layers.LAYER_CALLS, len(cases)) if trial.regime == CHAIN else 1
        return [Chain(way, repeats) for way in ways]

    def _chains_of_gradients(self, trial: Trial, case: GradientCase) -> list[Chain]:
        """The same of a product that makes gradients, which is timed by itself alone."""
        ways = [[case.ours(self.card, _pdl(trial))]]
        ways += [way for peer in self.gradients for way in self._ways_of(peer, trial, [case])]
        return [Chain(way) for way in ways]

    def _own_calls(self, trial: Trial, case: Case) -> list[Call]:
        calls = [case.ours(layout, self.card, _pdl(trial)) for layout in _layouts(trial, case.op)]
        if trial.regime == CHAIN:
            calls += [case.ours(M_MAJOR, self.card, pdl, name) for name, pdl in _FORCED.items()]
        return calls

    def _ways_of(self, peer: PeerOf[C], trial: Trial, cases: Sequence[C]) -> list[list[Call]]:
        """Each way of a peer to compute all layers, none of which it refuses."""
        if trial.regime not in peer.regimes:
            return []
        try:
            ways = list(zip(*(peer.calls(case) for case in cases), strict=True))
        # What peers raise is their affair.
        except Exception as refusal:
            self._note(peer.name, refusal)
            return []
        return [list(calls) for calls in ways if all(map(self._takes, calls))]

    def _takes(self, call: Call) -> bool:
        try:
            call()
            if self.device != "cpu":
                torch.cuda.synchronize()
        except Exception as refusal:
            self._note(call.peer, refusal)
            return False
        call.poison()
        return True

    def _calibration(self, trial: Trial) -> Call | None:
        """cuBLASLt, which has no grouped operation, at a dense shape beside a grouped one.

        It has figures to compare with of single calls alone.
        """
        if (
            trial.ops == (DENSE,)
            or trial.kind != PRODUCT
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


def kernels_of(trial: Trial, card: Card) -> Iterator[KernelConfig | Quantizer]:
    """What a trial launches of ours on ``card``."""
    for op in trial.ops:
        if trial.is_of_quantizers:
            if kernel := quantizer_of(op, trial.shape):
                yield kernel
            continue
        if trial.is_of_layers:
            # What a peer runs, too. Those with epilogues are :func:`fused_kernels_of`.
            yield from plain_products(trial.shape, card)
            continue
        problem = problem_of(op, trial.shape, card)
        for layout in _layouts(trial, op):
            yield selection.select(problem, tma_scales=layout == M_MAJOR)


def fused_kernels_of(trial: Trial, card: Card) -> list[KernelConfig]:
    """What an expert layer launches of ours with epilogues: for `expert_layers.fused_program`."""
    return products(trial.shape, card) if trial.is_of_layers else []


def run_trials(
    bench: Bench, trials: Iterable[Trial], directory: Path, kept: Mapping[Path, Sequence[Row]] | None = None
) -> tuple[list[Row], list[str]]:
    """Takes all measurements; the rows of a trial are in their file before the next one is measured.

    Args:
        bench: how.
        trials: what, those of one file together.
        directory: of the files, ``SUITE_REGIME.jsonl``. Each is replaced when its first trial starts.
        kept: what files begin with, of an earlier run.

    Returns:
        The rows, with those that were kept, and what went wrong: a line for each trial that was left when it
        failed.
    """
    files: dict[Path, list[Row]] = {path: list(rows) for path, rows in (kept or {}).items()}
    begun: set[Path] = set()
    failures: list[str] = []
    for trial in trials:
        path = file_of(trial, directory)
        rows = files.setdefault(path, [])
        if path not in begun:
            write_rows(path, rows)
            begun.add(path)
        try:
            for row in bench.measure(trial):
                rows.append(row)
                bench.say(f"{trial.title} {_describe(row)}")
        except (AssertionError, RuntimeError) as error:
            failures.append(f"{trial.full_title}: {type(error).__name__}: {in_a_line(error)}")
            bench.say(f"FAILED {failures[-1]}")
        # All of a trial or nothing: whoever goes on with it sees what is missing.
        write_rows(path, rows)
    for path, rows in files.items():
        bench.say(f"{len(rows)} rows: {path}")
    return [row for rows in files.values() for row in rows], failures


def _layouts(trial: Trial, op: str) -> tuple[str, ...]:
    """Those of scales that ours are timed with.

    Of a product those of A: M-major, as DeepGEMM takes them; cold also row-major. Of a quantiser row-major;
    of the plain one also M-major. Where each row of B has scales, M-major, as others are copied first.
    """
    if op in GRADIENTS:
        return (M_MAJOR,)
    if op in QUANTIZERS:
        return (ROW_MAJOR, M_MAJOR) if op == ROWS else (ROW_MAJOR,)
    return (M_MAJOR, ROW_MAJOR) if trial.regime == COLD else (M_MAJOR,)


def _pdl(trial: Trial) -> bool | None:
    """A kernel that waits for the flush of L2 would have its wait in its time."""
    return False if trial.regime == COLD else None


def _describe(row: Row) -> str:
    what = " ".join(filter(None, (row["op"], row["peer"], row["config"], row["scale_layout"])))
    wrong = f"; WRONG: {row['wrong']}" if "wrong" in row else ""
    return f"{what}: {row['us']:.2f} us, spread {row['spread']:.1%}, {_rate(row)}{wrong}"


def _rate(row: Row) -> str:
    if stages := row.get("stages"):
        each = ", ".join(f"{name} {us:.1f}" for name, us in stages.items())
        return f"{row['tflops']:.0f} TFLOP/s, {row['gb_per_s']:.0f} GB/s ({each})"
    if "tflops" in row:
        return f"{row['tflops']:.0f} TFLOP/s"
    share = f", {row['copy_share']:.2f} of a copy's speed" if "copy_share" in row else ""
    over = f", {row['over_empty_us']:.2f} us over an empty kernel" if "over_empty_us" in row else ""
    return f"{row['gb_per_s']:.0f} GB/s{share}{over}"
