"""Semaphores in GPU memory, from which clusters draw their tiles (schedulers/persistence.py)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..plan.limits import SEMAPHORE_WORDS
from .torch_internals import current_raw_stream

_DEFAULT_STREAM = 0
_CAPTURES = 32768
"""Semaphores that are made at a time for launches that are captured: 256 KiB."""

_of_streams: dict[tuple[int, int], int] = {}
"""Addresses by device and handle of a stream of PyTorch's pool: those live for ever."""

_of_contexts: dict[int, int] = {}
"""Addresses by CUDA context, for its default stream: green contexts have one each."""

_of_captures: dict[int, Iterator[int]] = {}
"""By device, addresses that no launch was captured with yet; no device whose captures found none left."""


def address(device: int) -> int:
    """The address of the semaphore for a kernel that is launched now, on the current stream of a CUDA device.

    A kernel leaves 0 behind, and draws while no other one on its stream does, so there is one for each
    stream. The device is the current one.

    A launch that is captured has one of its own, for good: an executable graph may be replayed on any stream,
    beside whatever runs there, and never runs beside itself; two that are instantiated from one capture must
    not. Nothing says when a graph is no longer used.

    The address is 0, so that persistence is static, for a stream that is not PyTorch's own, as another one
    may come to have its handle while kernels of it still run, or it may be one in each thread; in a capture,
    if no kernel has drawn on the device before, or captures have used up what was made by then; and where
    CUDA gives no memory for a semaphore.
    """
    # Asking this gives a new thread its context, too.
    if torch.cuda.is_current_stream_capturing():
        return _of_capture(device)
    if device not in _of_captures:
        _of_captures[device] = iter(_for_captures())
    stream = current_raw_stream(device)
    if stream == _DEFAULT_STREAM:
        context = _context()
        found = _of_contexts.get(context)
        return _of_contexts.setdefault(context, _new(stream)) if found is None else found
    found = _of_streams.get((device, stream))
    if found is not None:
        return found
    if not _is_of_pool(torch.cuda.current_stream(device).stream_id):
        return 0
    return _of_streams.setdefault((device, stream), _new(stream))


def _of_capture(device: int) -> int:
    """The address for a launch that is captured; nothing may be made now."""
    found = next(_of_captures.get(device, iter(())), 0)
    if not found:
        _of_captures.pop(device, None)
    return found


def _is_of_pool(stream_id: int) -> bool:
    """Whether PyTorch made a stream: ids of others are their handles, its own are odd (CUDAStream.cpp)."""
    return stream_id % 2 == 1


def _context() -> int:
    """The current CUDA context."""
    _, context = _driver().cuCtxGetCurrent()
    return int(context)


def _new(stream: int) -> int:
    """A semaphore for good, zeroed on the stream that it is for, so before any kernel that draws; 0 for none.

    Not by PyTorch's allocator: it would belong to the pool of memory that is in use, such as a graph's, which
    takes back all that it does not know of.
    """
    return _zeroed(1, stream)


def _for_captures() -> range:
    """Addresses of semaphores that are zero before any stream may use them; none if CUDA gives no memory."""
    driver = _driver()
    with _beside_captures():
        error, stream = driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        if error != driver.CUresult.CUDA_SUCCESS:
            return range(0)
        first = _zeroed(_CAPTURES, stream)
        (error,) = driver.cuStreamSynchronize(stream)
        driver.cuStreamDestroy(stream)
    if not first or error != driver.CUresult.CUDA_SUCCESS:
        return range(0)
    step = 4 * SEMAPHORE_WORDS
    return range(first, first + step * _CAPTURES, step)


@contextmanager
def _beside_captures() -> Iterator[None]:
    """Lets this thread use the driver while another one captures: none of it concerns that one's streams."""
    driver = _driver()
    relaxed = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    _, before = driver.cuThreadExchangeStreamCaptureMode(relaxed)
    try:
        yield
    finally:
        driver.cuThreadExchangeStreamCaptureMode(before)


def _zeroed(count: int, stream: int) -> int:
    """The address of so many semaphores, zeroed on a stream; 0 for none."""
    driver = _driver()
    words = SEMAPHORE_WORDS * count
    error, semaphores = driver.cuMemAllocAsync(4 * words, stream)
    if error == driver.CUresult.CUDA_SUCCESS:
        (error,) = driver.cuMemsetD32Async(semaphores, 0, words, stream)
    return int(semaphores) if error == driver.CUresult.CUDA_SUCCESS else 0


@functools.cache
def _driver() -> Any:
    from cuda.bindings import driver

    return driver
