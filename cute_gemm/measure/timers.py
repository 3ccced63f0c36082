"""Times calls in turns, round after round, so that drift of the card's clocks hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from . import clocks, cold, statistics
from .records import CHAIN, SUSTAINED

# So that no shape starts at the clock that the one before left: twenty calls of milliseconds, then twenty of
# the next, and so on, would soon be at the power limit, which the peers' cold figures were not.
_REST_PER_CALL = 5e-3
_COOL_DOWN = 0.3


@dataclass(frozen=True)
class Times:
    """Microseconds of one call in each round."""

    us: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.mean(self.us)

    @property
    def median(self) -> float:
        return statistics.median(self.us)

    @property
    def spread(self) -> float:
        """Longest less shortest, as a share of the median."""
        return statistics.spread(self.us)

    def of_each(self, count: int) -> Times:
        """Of each of ``count`` calls that were timed as one."""
        return Times(tuple(us / count for us in self.us))


class Timer(Protocol):
    """Times some calls together."""

    @property
    def name(self) -> str: ...

    def __call__(self, calls: Sequence[Callable[[], object]]) -> list[Times]:
        """Times of each call, in the order given.

        Raises:
            RuntimeError: what was measured cannot be trusted, or a call failed.
        """


@dataclass(frozen=True)
class ColdProfile:
    """L2 flushed before each call; lengths of its kernels, copies and fills as CUPTI reports them."""

    name: str = "CUPTI"
    rounds: int = 5
    batches: int = 4

    def __call__(self, calls: Sequence[Callable[[], object]]) -> list[Times]:
        return _by_call(self._rounds(calls))

    def _rounds(self, calls: Sequence[Callable[[], object]]) -> Iterator[Sequence[float]]:
        for _ in range(self.batches):
            time.sleep(_REST_PER_CALL * len(calls) * (cold.WARM_UP + self.rounds))
            yield from zip(*cold.time_cold_together(calls, self.rounds), strict=True)


@dataclass(frozen=True)
class ColdReplay:
    """As `ColdProfile`, where that is not allowed: a CUDA graph of flushes and calls, less one of flushes.

    The gaps between kernels, about a microsecond each, count.
    """

    name: str = "graph replay"
    rounds: int = 20
    calls_in_graph: int = 5

    def __call__(self, calls: Sequence[Callable[[], object]]) -> list[Times]:
        return _by_call(self._rounds(calls))

    def _rounds(self, calls: Sequence[Callable[[], object]]) -> Iterator[Sequence[float]]:
        buffer = cold.flush_buffer()
        for call in [*calls] * cold.WARM_UP:
            call()
        torch.cuda.synchronize()
        flushes, *graphs = (self._capture(buffer, call) for call in (lambda: None, *calls))
        for _ in range(self.rounds):
            time.sleep(_REST_PER_CALL * len(calls) * self.calls_in_graph)
            flush_us = clocks.elapsed_us(flushes.replay)
            yield [(clocks.elapsed_us(graph.replay) - flush_us) / self.calls_in_graph for graph in graphs]

    def _capture(self, buffer: torch.Tensor, call: Callable[[], object]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(self.calls_in_graph):
                buffer.fill_(0)
                call()
        return graph


@dataclass(frozen=True)
class Sustained:
    """Calls back to back for two seconds, so that the card is at its power limit; mean of the second half."""

    name: str = "CUDA events, back to back"
    rounds: int = 3
    seconds: float = 2.0

    def __call__(self, calls: Sequence[Callable[[], object]]) -> list[Times]:
        return _by_call([self._time(call) for call in calls] for _ in range(self.rounds))

    def _time(self, call: Callable[[], object]) -> float:
        time.sleep(_COOL_DOWN)
        return clocks.time_sustained(call, self.seconds)


@dataclass(frozen=True)
class GraphReplay:
    """Each call is captured into a CUDA graph of its own, which is replayed back to back; gaps count.

    A call should be many kernels: the gap between two replays counts, too.
    """

    name: str = "CUDA graph, back to back"
    rounds: int = 10
    least_us: float = 2000.0

    def __call__(self, calls: Sequence[Callable[[], object]]) -> list[Times]:
        for call in [*calls] * cold.WARM_UP:
            call()
        torch.cuda.synchronize()
        graphs = [self._capture(call) for call in calls]
        replays = [self._replays(graph) for graph in graphs]
        return _by_call(
            [self._time(graph, count) for graph, count in zip(graphs, replays, strict=True)]
            for _ in range(self.rounds)
        )

    def _capture(self, call: Callable[[], object]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph

    def _replays(self, graph: torch.cuda.CUDAGraph) -> int:
        graph.replay()
        return max(1, round(self.least_us / clocks.elapsed_us(graph.replay)))

    def _time(self, graph: torch.cuda.CUDAGraph, replays: int) -> float:
        time.sleep(_REST_PER_CALL)
        # The first has the clocks, and L2, of what ran before.
        graph.replay()
        return clocks.elapsed_us(graph.replay, replays)


def timers_of(regimes: Iterable[str], sustained: Timer) -> tuple[dict[str, Timer], list[str]]:
    """What times each regime here, by regime; and a line for each that is not timed as it should be."""
    timers: dict[str, Timer] = {}
    notes = []
    for regime in regimes:
        if regime == SUSTAINED:
            timers[regime] = sustained
            continue
        if regime == CHAIN:
            timers[regime] = GraphReplay()
            continue
        timers[regime], reason = cold_timer()
        if reason:
            notes.append(
                f"CUPTI cannot be used, so {regime} calls are timed by {timers[regime].name}: {reason}"
            )
    return timers, notes


def cold_timer() -> tuple[Timer, str]:
    """What can time cold calls here; and, if that is not CUPTI, why, in one line."""
    probe = torch.zeros(1 << 20, device="cuda")
    try:
        cold.time_cold(lambda: probe.add_(1), 2)
    except RuntimeError as error:
        return ColdReplay(), " ".join(str(error).split())
    return ColdProfile(), ""


def _by_call(rounds: Iterable[Sequence[float]]) -> list[Times]:
    """Times of each call, from those of all calls in each round."""
    return [Times(us) for us in zip(*rounds, strict=True)]
