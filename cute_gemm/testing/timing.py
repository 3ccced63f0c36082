"""Timers for CUDA operations in the two regimes that count, for the host's share, and the hardware's limit.

Cold: one call at a time with nothing of the operands in L2, as a latency-bound server sees it. Sustained:
call after call at the card's power limit, as a loaded server or a training run sees it. A kernel can win one
and lose the other.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from ..plan.problem import GemmProblem

# Data sheet of the H200: dense e4m3 FLOP per second, bytes per second.
PEAK_FLOPS = 1979e12
PEAK_BYTES = 4.8e12

_FLUSH_BYTES = 256 << 20
_HOST_BATCH = 100


class ColdTimes(list[float]):
    """Microseconds of each call, in order, as `time_cold` returns them."""

    @property
    def median_us(self) -> float:
        """Median of the calls, in microseconds."""
        return statistics.median(self)

    @property
    def spread(self) -> float:
        """Slowest less fastest call, as a share of the median."""
        return (max(self) - min(self)) / self.median_us


class DeviceEvent(NamedTuple):
    """One kernel, copy or fill on the device: its name, its start and its length in microseconds."""

    name: str
    start: float
    length: float


def time_cold(fn: Callable[[], object], repeats: int = 20) -> ColdTimes:
    """Device time of each of ``repeats`` calls of ``fn``, one at a time, with the L2 flushed before each.

    The sum of the lengths of the kernels, copies and fills that a call makes, as CUPTI reports them, so that
    neither the host's time nor the gaps count. Before each call 256 MiB are written; that kernel does not
    count.

    Args:
        fn: the operation; everything it launches must go to the current stream.
        repeats: number of calls that are timed, after three that are not.

    Returns:
        Microseconds per call, in order, with their median and spread.

    Raises:
        RuntimeError: there is no CUDA device; or the profile does not hold the same work for every call
            (CUPTI lost records, or another thread used the device), so that no figure could be trusted.
    """
    return time_cold_together([fn], repeats)[0]


def time_cold_together(fns: Sequence[Callable[[], object]], repeats: int = 20) -> list[ColdTimes]:
    """As `time_cold`, for several operations that take turns: so the card's temperature favours none.

    Args:
        fns: the operations; everything they launch must go to the current stream.
        repeats: number of turns that are timed, after three that are not.

    Returns:
        For each operation, microseconds per call.

    Raises:
        RuntimeError: as `time_cold`.
    """
    _need_cuda("time_cold")
    # The dtype makes the fill a kernel of its own, which no operation under test launches: it marks where a
    # call starts on the device's time line.
    buffer = torch.empty(_FLUSH_BYTES // 16, dtype=torch.complex128, device="cuda")
    for fn in [*fns] * 3:
        fn()
    # The first profile of a process starts CUPTI, which may cost records: let it be one that only learns a
    # name.
    names = {event.name for event in _profile(lambda: buffer.fill_(0), 2)}
    if len(names) != 1:
        found = ", ".join(sorted(names)) or "none"
        raise RuntimeError(f"time_cold: want one kernel that flushes the L2; the profiler saw: {found}")

    def take_turns() -> None:
        for fn in fns:
            buffer.fill_(0)
            fn()

    sums = _sum_per_call(_profile(take_turns, repeats), names.pop(), repeats, len(fns))
    return [ColdTimes(sums[i :: len(fns)]) for i in range(len(fns))]


def time_sustained(fn: Callable[[], object], seconds: float = 2.0) -> float:
    """Mean time of a call of ``fn`` in the second half of ``seconds`` of back-to-back calls, L2 warm.

    Args:
        fn: the operation, launched on the current stream. Where its host time is above its device time, it is
            the host time that is measured.
        seconds: for how long; the number of calls is estimated from twenty, before the clock drops.

    Returns:
        Microseconds per call, from CUDA events.

    Raises:
        RuntimeError: there is no CUDA device.
    """
    _need_cuda("time_sustained")
    fn()
    estimate = _elapsed_us(fn, 20)
    half = max(1, round(seconds * 1e6 / estimate / 2))
    for _ in range(half):
        fn()
    return _elapsed_us(fn, half)


def host_time(fn: Callable[[], object], calls: int = 1000) -> float:
    """Host time of a warm call of ``fn``: what the caller's thread spends, not what the device does.

    Args:
        fn: the operation. Choose a small problem: a device that falls behind makes the launches wait.
        calls: number of calls timed, in batches of a hundred; the device catches up between them, off the
            clock.

    Returns:
        Microseconds per call: the median over the batches.
    """
    for _ in range(3):
        fn()
    means = []
    for _ in range(max(1, calls // _HOST_BATCH)):
        count = min(calls, _HOST_BATCH)
        _synchronize()
        start = time.perf_counter()
        for _ in range(count):
            fn()
        means.append((time.perf_counter() - start) / count * 1e6)
    _synchronize()
    return statistics.median(means)


def limit_us(problem: GemmProblem) -> float:
    """The least time in microseconds that an H200's data sheet allows ``problem`` on dense FP8 tensor cores.

    The larger of the time for its operations and the time for reading both operands and their scales, and for
    writing the output, once.
    """
    return max(problem.flops / PEAK_FLOPS, problem.bytes_moved / PEAK_BYTES) * 1e6


def _profile(fn: Callable[[], object], repeats: int) -> list[DeviceEvent]:
    """What ``repeats`` calls of ``fn`` do on the device, in order of start."""
    _synchronize()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as recorded:
        for _ in range(repeats):
            fn()
        _synchronize()
    events = [
        DeviceEvent(event.name, event.time_range.start, event.time_range.elapsed_us())
        for event in recorded.events() or ()
        # Annotations span the kernels inside them on the device's time line and would count twice.
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    return sorted(events, key=lambda event: event.start)


def _sum_per_call(events: Sequence[DeviceEvent], flush: str, repeats: int, kinds: int = 1) -> list[float]:
    """Lengths of the events between one ``flush`` and the next, summed; ``kinds`` of calls take turns."""
    calls: list[list[DeviceEvent]] = []
    for event in events:
        if event.name == flush:
            calls.append([])
        elif calls:
            calls[-1].append(event)
    counts = [len(call) for call in calls]
    wanted = repeats * kinds
    if len(calls) != wanted or min(counts) == 0 or any(len({*counts[i::kinds]}) > 1 for i in range(kinds)):
        raise RuntimeError(
            f"time_cold: want {wanted} flushes of the L2 in the profile, and the same number of kernels, at"
            f" least one, after each call of an operation; found {len(calls)} flushes, followed by {counts}"
            " kernels"
        )
    return [sum(event.length for event in call) for call in calls]


def _elapsed_us(fn: Callable[[], object], calls: int) -> float:
    """Mean over ``calls`` calls, by CUDA events on the current stream."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        fn()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3 / calls


def _need_cuda(function: str) -> None:
    if not torch.cuda.is_available():
        raise RuntimeError(f"{function}: needs a CUDA device, and torch sees none")


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
