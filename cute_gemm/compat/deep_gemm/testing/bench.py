"""Timers, in seconds. What they time and how is :mod:`cute_gemm.measure`'s, which a first call imports."""

from __future__ import annotations

import os
from collections.abc import Callable


def bench(
    fn: Callable[[], object], num_warmups: int = 5, num_tests: int = 10, high_precision: bool = False
) -> float:
    """Mean seconds of calls one right behind the other, by CUDA events.

    Args:
        fn: what is called.
        num_warmups: calls before.
        num_tests: calls that count.
        high_precision: of no meaning.

    Raises:
        RuntimeError: torch sees no CUDA device.
    """
    from ....measure import clocks

    clocks.require_cuda("bench")
    for _ in range(num_warmups):
        fn()
    clocks.synchronize()
    return clocks.elapsed_us(fn, num_tests) / 1e6


def bench_kineto(
    fn: Callable[[], object],
    kernel_names: str | tuple[str, ...],
    num_tests: int = 30,
    suppress_kineto_output: bool = False,
    trace_path: str | None = None,
    flush_l2: bool = True,
    with_multiple_kernels: bool = False,
    barrier: Callable[[], object] | None = None,
) -> float | tuple[float, ...]:
    """Seconds that kernels of a call take, by what their names contain.

    Kernels here have other names than DeepGEMM's. Where a call launches none that is asked for, the first
    name stands for all that it launches.

    Args:
        fn: what is called.
        kernel_names: a part of a kernel's name; or several, for a time each, 0 for one that is not found
            while another is.
        num_tests: calls that count.
        suppress_kineto_output, with_multiple_kernels: of no meaning: nothing is printed, and the time is that
            of all kernels with the name that a call launches.
        trace_path: None.
        flush_l2: whether the L2 is flushed before each call.
        barrier: what else is called before each.

    Returns:
        The mean, or one for each name. 1 where ``DG_USE_NVIDIA_TOOLS`` says that another profiler is at work.

    Raises:
        NotImplementedError: there is a `trace_path`.
        RuntimeError: torch sees no CUDA device.
    """
    names = (kernel_names,) if isinstance(kernel_names, str) else kernel_names
    if trace_path is not None:
        raise NotImplementedError("trace_path: cute_gemm writes no traces; torch.profiler does")
    if int(os.environ.get("DG_USE_NVIDIA_TOOLS", 0)):
        times = [1.0] * len(names)
    else:
        times = _by_name(fn, names, num_tests, flush_l2, barrier)
    return times[0] if isinstance(kernel_names, str) else tuple(times)


def _by_name(
    fn: Callable[[], object],
    names: tuple[str, ...],
    count: int,
    flush_l2: bool,
    barrier: Callable[[], object] | None,
) -> list[float]:
    from ....measure import cold
    from ....measure.clocks import require_cuda

    require_cuda("bench_kineto")
    buffer = cold.flush_buffer() if flush_l2 else None

    def prepare() -> None:
        if buffer is not None:
            buffer.fill_(0)
        if barrier is not None:
            barrier()

    def prepare_and_call() -> None:
        prepare()
        fn()

    prepare_and_call()
    others = {event.name for event in cold.device_events(prepare, 2)}
    events = [each for each in cold.device_events(prepare_and_call, count) if each.name not in others]
    sums = [sum(each.length for each in events if name in each.name) for name in names]
    if not any(sums):
        sums[0] = sum(each.length for each in events)
    return [each / count / 1e6 for each in sums]
