"""Counters in GPU memory from which the clusters of a kernel draw their tiles (kernels/turns.py)."""

from __future__ import annotations

import torch
from cuda.bindings import driver

WORDS = 2
"""Of 32 bits each."""

_counters: dict[tuple[int, int], int] = {}
"""Addresses, of each CUDA context and stream. A kernel leaves 0 behind, and is alone on its stream."""


def address(device: int) -> int:
    """The address of the counter for a kernel that is launched now, on the current stream of a CUDA device.

    The device is the current one. The address is 0, so that turns are even, while the stream is being
    captured: a graph may be replayed on any stream, beside whatever runs there. And it is 0 for a stream that
    is not PyTorch's own, as another one may come to have its handle while kernels of it still run, or it may
    be one in each thread; and where CUDA gives no memory for a counter.
    """
    stream = torch.cuda.current_stream(device)
    # Asking whether it is captured gives a new thread its context, too.
    if not _is_own(stream.stream_id) or torch.cuda.is_current_stream_capturing():
        return 0
    key = _context(), stream.stream_id
    counter = _counters.get(key)
    if counter is None:
        counter = _counters.setdefault(key, _new(stream.cuda_stream))
    return counter


def _is_own(stream: int) -> bool:
    """Whether PyTorch made a stream: ids of others are their handles, its own 0 or odd (CUDAStream.cpp)."""
    return stream == 0 or stream % 2 == 1


def _context() -> int:
    """The current CUDA context: green ones have streams of the same ids as others."""
    _, context = driver.cuCtxGetCurrent()
    return int(context)


def _new(stream: int) -> int:
    """A counter for good, zeroed on the stream that it is for, so before any kernel that counts; 0 for none.

    Not by PyTorch's allocator: it would belong to the pool of memory that is in use, such as a graph's, which
    takes back all that it does not know of.
    """
    error, counter = driver.cuMemAllocAsync(4 * WORDS, stream)
    if error == driver.CUresult.CUDA_SUCCESS:
        (error,) = driver.cuMemsetD32Async(counter, 0, WORDS, stream)
    return int(counter) if error == driver.CUresult.CUDA_SUCCESS else 0
