"""Semaphores in GPU memory, from which clusters draw their tiles (schedulers/persistence.py)."""

from __future__ import annotations

import functools
from typing import Any

import torch

from ..plan.limits import SEMAPHORE_WORDS
from .torch_internals import current_raw_stream

_DEFAULT_STREAM = 0

_of_streams: dict[tuple[int, int], int] = {}
"""Addresses by device and handle of a stream of PyTorch's pool: those live for ever."""

_of_contexts: dict[int, int] = {}
"""Addresses by CUDA context, for its default stream: green contexts have one each."""


def address(device: int) -> int:
    """The address of the semaphore for a kernel that is launched now, on the current stream of a CUDA device.

    A kernel leaves 0 behind, and is alone on its stream, so there is one for each stream. The device is the
    current one.

    The address is 0, so that persistence is static, while the stream is being captured: a graph may be
    replayed on any stream, beside whatever runs there. And it is 0 for a stream that is not PyTorch's own, as
    another one may come to have its handle while kernels of it still run, or it may be one in each thread;
    and where CUDA gives no memory for a semaphore.
    """
    # Asking this gives a new thread its context, too.
    if torch.cuda.is_current_stream_capturing():
        return 0
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
    driver = _driver()
    error, semaphore = driver.cuMemAllocAsync(4 * SEMAPHORE_WORDS, stream)
    if error == driver.CUresult.CUDA_SUCCESS:
        (error,) = driver.cuMemsetD32Async(semaphore, 0, SEMAPHORE_WORDS, stream)
    return int(semaphore) if error == driver.CUresult.CUDA_SUCCESS else 0


@functools.cache
def _driver() -> Any:
    from cuda.bindings import driver

    return driver
