"""The order and the arithmetic of the benchmark's timers; what they time is for the GPU."""

import pytest
import torch

from cute_gemm.measure import clocks, cold, timers
from cute_gemm.measure.cold import ColdTimes


@pytest.fixture
def slept(monkeypatch):
    slept = []
    monkeypatch.setattr(timers.time, "sleep", slept.append)
    return slept


def test_times_summarise():
    times = timers.Times((4.0, 2.0, 3.0, 5.0))
    assert (times.mean, times.median) == (3.5, 3.5)
    assert times.spread == pytest.approx(3 / 3.5)


def test_cold_rounds_come_in_batches_with_rests(slept, monkeypatch):
    asked = []

    def together(calls, rounds):
        asked.append((len(slept), rounds))
        return [ColdTimes([10.0 * i + len(asked)] * rounds) for i in range(len(calls))]

    monkeypatch.setattr(cold, "time_cold_together", together)
    timer = timers.ColdProfile(rounds=2, batches=3)
    first, second = timer([print, print])
    assert asked == [(1, 2), (2, 2), (3, 2)]
    assert first.us == (1.0, 1.0, 2.0, 2.0, 3.0, 3.0)
    assert second.us == (11.0, 11.0, 12.0, 12.0, 13.0, 13.0)
    # For each call of a batch, warm-up included.
    assert slept == [pytest.approx(5e-3 * 2 * (3 + 2))] * 3
    assert timer.name == "CUPTI"


def test_sustained_calls_take_turns(slept, monkeypatch):
    asked = []

    def sustained(call, seconds):
        asked.append((call, seconds, len(slept)))
        return float(len(asked))

    monkeypatch.setattr(clocks, "time_sustained", sustained)
    first, second = timers.Sustained(rounds=2)([print, repr])
    assert asked == [(print, 2.0, 1), (repr, 2.0, 2), (print, 2.0, 3), (repr, 2.0, 4)]
    assert (first.us, second.us) == ((1.0, 3.0), (2.0, 4.0))


def test_replays_count_what_is_not_the_flush(slept, monkeypatch):
    """Graphs of five flushes and calls in turns: what a graph of flushes takes is taken off."""
    order, replayed = [], []
    microseconds = {"flush": 50.0, "first": 7.0, "second": 9.0}

    class Buffer:
        def fill_(self, value):
            order.append("flush")

    class Graph:
        def __enter__(self):
            self.start = len(order)

        def __exit__(self, *_):
            self.us = sum(microseconds[name] for name in order[self.start :])

        def replay(self):
            replayed.append(self)
            return self.us + 3.0

    monkeypatch.setattr(torch, "empty", lambda *_, **__: Buffer())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: graph)
    monkeypatch.setattr(clocks, "elapsed_us", lambda replay: replay())
    times = timers.ColdReplay(rounds=3)([lambda: order.append("first"), lambda: order.append("second")])
    assert [each.us for each in times] == [(7.0,) * 3, (9.0,) * 3]
    assert order[:6] == ["first", "second"] * 3
    assert order[6:] == ["flush"] * 5 + ["flush", "first"] * 5 + ["flush", "second"] * 5
    assert [replayed.index(graph) for graph in replayed] == [0, 1, 2] * 3
    assert len(slept) == 3


def test_replay_is_what_is_left_where_profiling_is_forbidden(monkeypatch):
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: torch.ones(1))
    monkeypatch.setattr(cold, "time_cold", lambda call, repeats: call())
    timer, reason = timers.cold_timer()
    assert (timer.name, reason) == ("CUPTI", "")

    def forbidden(call, repeats):
        raise RuntimeError("want one kernel;\n the profiler saw: none")

    monkeypatch.setattr(cold, "time_cold", forbidden)
    timer, reason = timers.cold_timer()
    assert (timer.name, reason) == ("graph replay", "want one kernel; the profiler saw: none")


def test_each_regime_has_its_timer(monkeypatch):
    sustained, cold = timers.Sustained(rounds=1), timers.ColdReplay()
    monkeypatch.setattr(timers, "cold_timer", lambda: (cold, "not permitted"))
    assert timers.timers_of(["sustained"], sustained) == ({"sustained": sustained}, [])
    found, notes = timers.timers_of(["cold", "sustained"], sustained)
    assert found == {"cold": cold, "sustained": sustained}
    assert timers.timers_of(["chain"], sustained) == ({"chain": timers.GraphReplay()}, [])
    assert notes == ["CUPTI cannot be used, so cold calls are timed by graph replay: not permitted"]
    monkeypatch.setattr(timers, "cold_timer", lambda: (timers.ColdProfile(), ""))
    assert timers.timers_of(["cold"], sustained) == ({"cold": timers.ColdProfile()}, [])


def test_graphs_are_replayed_for_long_enough_in_turns(slept, monkeypatch):
    """Each once before it is timed; a call of 10 us 20 times, one of 500 us once."""
    lengths, log = {"short": 10.0, "long": 500.0}, []

    class Graph:
        def __init__(self, call):
            self.name = call()

        def replay(self):
            log.append(self.name)

    def elapsed(fn, calls=1):
        for _ in range(calls):
            fn()
        return lengths[log[-1]]

    monkeypatch.setattr(timers.torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(timers.GraphReplay, "_capture", lambda self, call: Graph(call))
    monkeypatch.setattr(timers.clocks, "elapsed_us", elapsed)
    timer = timers.GraphReplay(rounds=2, least_us=200.0)
    times = timer([lambda: "short", lambda: "long"])
    assert [each.us for each in times] == [(10.0, 10.0), (500.0, 500.0)]
    assert [each.of_each(5).mean for each in times] == [2.0, 100.0]
    one_round = ["short"] * 21 + ["long"] * 2
    assert log == ["short", "short", "long", "long", *one_round, *one_round]
