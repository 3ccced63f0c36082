"""Timers that read a clock: CUDA events around calls back to back, and the host's own."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from .statistics import median

_HOST_BATCH = 100


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
    require_cuda("time_sustained")
    fn()
    estimate = elapsed_us(fn, 20)
    half = max(1, round(seconds * 1e6 / estimate / 2))
    for _ in range(half):
        fn()
    return elapsed_us(fn, half)


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
        synchronize()
        start = time.perf_counter()
        for _ in range(count):
            fn()
        means.append((time.perf_counter() - start) / count * 1e6)
    synchronize()
    return median(means)


def elapsed_us(fn: Callable[[], object], calls: int = 1) -> float:
    """Mean over ``calls`` calls in microseconds, by CUDA events on the current stream."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        fn()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3 / calls


def require_cuda(function: str) -> None:
    """Raises RuntimeError if ``function`` has no CUDA device to time."""
    if not torch.cuda.is_available():
        raise RuntimeError(f"{function}: needs a CUDA device, and torch sees none")


def synchronize() -> None:
    """Waits for the device, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
