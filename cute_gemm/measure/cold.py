"""Times of single calls with a cold L2, by CUPTI.

One call at a time with nothing of the operands in L2 is what a latency-bound server sees; call after call at
the card's power limit (`clocks.time_sustained`) what a loaded server or a training run sees. A kernel can win
one and lose the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .clocks import require_cuda, synchronize
from .statistics import median, spread

WARM_UP = 3
"""Calls of each operation that are made before any is timed."""

_FLUSH_BYTES = 256 << 20


class ColdTimes(list[float]):
    """Microseconds of each call, in order, as `time_cold` returns them."""

    @property
    def median_us(self) -> float:
        """Median of the calls, in microseconds."""
        return median(self)

    @property
    def spread(self) -> float:
        """Slowest less fastest call, as a share of the median."""
        return spread(self)


class DeviceEvent(NamedTuple):
    """One kernel, copy or fill on the device: its name, its start and its length in microseconds."""

    name: str
    start: float
    length: float


def flush_buffer() -> torch.Tensor:
    """Memory of which ``fill_`` evicts all else from L2: 256 MiB, more than four times what L2 holds.

    The dtype makes the fill a kernel of its own, which no operation under test launches: it marks where a
    call starts on the device's time line.
    """
    return torch.empty(_FLUSH_BYTES // 16, dtype=torch.complex128, device="cuda")


def time_cold(fn: Callable[[], object], repeats: int = 20) -> ColdTimes:
    """Device time of each of ``repeats`` calls of ``fn``, one at a time, with the L2 flushed before each.

    The sum of the lengths of the kernels, copies and fills that a call makes, as CUPTI reports them, so that
    neither the host's time nor the gaps count. Before each call 256 MiB are written; that kernel does not
    count. One that is launched dependently may start before it has ended, so that its wait counts: time ours
    with ``cute_gemm.config(pdl=False)``.

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


def time_cold_together(
    fns: Sequence[Callable[[], object]], repeats: int = 20, warm_up: int = WARM_UP
) -> list[ColdTimes]:
    """As `time_cold`, for several operations in turns, so that the card's temperature favours none.

    Args:
        fns: the operations; everything they launch must go to the current stream.
        repeats: number of rounds that are timed.
        warm_up: number of those before that are not.

    Returns:
        For each operation, microseconds per call.

    Raises:
        RuntimeError: as `time_cold`.
    """
    require_cuda("time_cold")
    buffer = flush_buffer()
    for fn in [*fns] * warm_up:
        fn()
    # The first profile of a process starts CUPTI, which may cost records: let it be one that only learns a
    # name.
    names = {event.name for event in device_events(lambda: buffer.fill_(0), 2)}
    if len(names) != 1:
        found = ", ".join(sorted(names)) or "none"
        raise RuntimeError(f"time_cold: want one kernel that flushes the L2; the profiler saw: {found}")

    def one_round() -> None:
        for fn in fns:
            buffer.fill_(0)
            fn()

    sums = _sum_per_call(device_events(one_round, repeats), names.pop(), repeats, len(fns))
    return [ColdTimes(sums[i :: len(fns)]) for i in range(len(fns))]


def device_events(fn: Callable[[], object], repeats: int) -> list[DeviceEvent]:
    """What ``repeats`` calls of ``fn`` do on the device, in order of start."""
    synchronize()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as recorded:
        for _ in range(repeats):
            fn()
        synchronize()
    events = [
        DeviceEvent(event.name, event.time_range.start, event.time_range.elapsed_us())
        for event in recorded.events() or ()
        # Annotations span the kernels inside them on the device's time line and would count twice.
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    return sorted(events, key=lambda event: event.start)


def _sum_per_call(events: Sequence[DeviceEvent], flush: str, repeats: int, kinds: int = 1) -> list[float]:
    """Lengths of the events between one ``flush`` and the next, summed; ``kinds`` of calls alternate."""
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
