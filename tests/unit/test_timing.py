"""The arithmetic of the timers; the device they time is for the GPU tests."""

from types import SimpleNamespace

import pytest
import torch

from cute_gemm.measure import clocks, cold
from cute_gemm.plan.data_sheets import data_sheet
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.testing import host_time, time_cold, time_sustained


def events(*named):
    return [cold.DeviceEvent(name, float(start), float(length)) for start, (name, length) in enumerate(named)]


def test_cold_time_sums_the_kernels_after_each_flush():
    profile = events(("stray", 9), ("flush", 50), ("k", 2), ("j", 3), ("flush", 50), ("k", 4), ("j", 5))
    assert cold._sum_per_call(profile, "flush", 2) == [5.0, 9.0]


def test_operations_that_take_turns_may_launch_different_numbers_of_kernels():
    profile = events(("flush", 50), ("k", 2), ("flush", 50), ("i", 1), ("j", 3))
    assert cold._sum_per_call(profile + profile, "flush", 2, kinds=2) == [2.0, 4.0, 2.0, 4.0]
    with pytest.raises(RuntimeError, match="want 4 flushes"):
        cold._sum_per_call(profile + profile[:-1], "flush", 2, kinds=2)


@pytest.mark.parametrize(
    "profile",
    [
        events(),
        events(("flush", 50), ("k", 2)),
        events(("flush", 50), ("k", 2), ("flush", 50)),
        events(("flush", 50), ("k", 2), ("flush", 50), ("k", 2), ("j", 1)),
        events(("flush", 50), ("flush", 50)),
        events(("flush", 50), ("k", 2), ("flush", 50), ("k", 2), ("flush", 50), ("k", 2)),
    ],
)
def test_cold_time_refuses_a_profile_with_holes(profile):
    with pytest.raises(RuntimeError, match="want 2 flushes"):
        cold._sum_per_call(profile, "flush", 2)


def test_calls_take_turns_behind_flushes_after_some_that_are_not_timed(monkeypatch):
    made = []

    def profile(fn, repeats):
        start = len(made)
        for _ in range(repeats):
            fn()
        return events(*((name, 2 if name == "first" else 5) for name in made[start:]))

    monkeypatch.setattr(cold, "require_cuda", lambda function: None)
    buffer = SimpleNamespace(fill_=lambda value: made.append("flush"))
    monkeypatch.setattr(cold, "flush_buffer", lambda: buffer)
    monkeypatch.setattr(cold, "device_events", profile)
    calls = [lambda: made.append("first"), lambda: made.append("second")]
    assert cold.time_cold_together(calls, 2, warm_up=1) == [[2.0, 2.0], [5.0, 5.0]]
    one_round = ["flush", "first", "flush", "second"]
    assert made == ["first", "second", "flush", "flush", *one_round, *one_round]
    made.clear()
    cold.time_cold_together(calls, 1)
    assert made == [*["first", "second"] * 3, "flush", "flush", *one_round]


def test_cold_times_summarise():
    times = cold.ColdTimes([4.0, 2.0, 3.0])
    assert times == [4.0, 2.0, 3.0]
    assert times.median_us == 3.0
    assert times.spread == pytest.approx(2 / 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
@pytest.mark.parametrize("timer", [time_cold, time_sustained])
def test_device_timers_say_that_they_need_a_device(timer):
    with pytest.raises(RuntimeError, match=f"{timer.__name__}: needs a CUDA device"):
        timer(lambda: None)


@pytest.mark.parametrize(("calls", "want"), [(1, 1), (250, 200)])
def test_host_time(calls, want):
    clock, made = [0.0], []

    def call():
        made.append(None)
        clock[0] += 5e-6

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clocks.time, "perf_counter", lambda: clock[0])
        assert host_time(call, calls) == pytest.approx(5.0)
    assert len(made) == 3 + want


def test_limit():
    limit_us = data_sheet("NVIDIA H200").limit_us
    # 2 * 4096 * 7168 * 16384 operations at 1979 TFLOP/s; and a row against B of 2112 x 7168 at 4.8 TB/s.
    assert limit_us(GemmProblem(4096, 7168, 16384)) == pytest.approx(486.2, abs=0.1)
    assert limit_us(GemmProblem(1, 2112, 7168)) == pytest.approx(3.157, abs=0.001)
    assert limit_us(GemmProblem(1, 32768, 512, "float32")) > limit_us(GemmProblem(1, 32768, 512))
    assert data_sheet("NVIDIA L4") is None
