"""Times of CUDA graphs that take turns without a pause, so that thousands of them take seconds."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import torch

from cute_gemm.measure import clocks
from cute_gemm.measure.statistics import median


class Graph(Protocol):
    """What was captured."""

    def replay(self) -> None: ...


def time_chains(
    chains: Sequence[Callable[[], object]],
    rounds: int,
    least_us: float = 300.0,
    seen: Callable[[int], None] = lambda place: None,
) -> list[float]:
    """Microseconds that each call takes as a CUDA graph, median over the rounds; gaps between kernels count.

    In a round each graph is replayed for at least so long, one behind the other: the device is never idle,
    so that no time of the host counts, and each graph finds L2 as a replay of its own would leave it, if
    all of them read the same weights.

    Args:
        chains: calls, each made before, as the first launch of a kernel cannot be captured.
        rounds: that are timed, after one that says how often to replay.
        least_us: how long to replay in a round.
        seen: is told the place of each chain after a replay of it alone, before any is timed.

    Raises:
        RuntimeError: a call cannot be captured.
    """
    if not chains:
        return []
    clocks.synchronize()
    graphs = [captured(chain) for chain in chains]
    # CUDA uploads a graph when it is first replayed.
    for place, graph in enumerate(graphs):
        graph.replay()
        seen(place)
    estimates = _one_round(graphs, [1] * len(graphs))
    replays = [max(1, math.ceil(least_us / max(us, 1.0))) for us in estimates]
    times = [_one_round(graphs, replays) for _ in range(rounds)]
    return [median(of_one) for of_one in zip(*times, strict=True)]


def captured(call: Callable[[], object]) -> Graph:
    """A CUDA graph of a call.

    Not by ``torch.cuda.graph``, which gives back all memory that torch's allocator keeps, each time.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(_capture_stream()):
        graph.capture_begin()
        try:
            call()
        except BaseException:
            # What is raised by a capture that was given up says nothing of why.
            with suppress(RuntimeError):
                graph.capture_end()
            raise
        graph.capture_end()
    return graph


@functools.cache
def _capture_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()


def _one_round(graphs: Sequence[Graph], replays: Sequence[int]) -> list[float]:
    """Microseconds of one replay of each graph."""
    # While it runs, what is timed is queued.
    graphs[0].replay()
    marks = [_mark()]
    for graph, count in zip(graphs, replays, strict=True):
        for _ in range(count):
            graph.replay()
        marks.append(_mark())
    marks[-1].synchronize()
    spans = itertools.pairwise(marks)
    return [start.elapsed_time(end) * 1e3 / count for (start, end), count in zip(spans, replays, strict=True)]


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
