"""Counters in GPU memory from which the clusters of a kernel draw their tiles (kernels/turns.py)."""

from __future__ import annotations

import torch
from torch import Tensor

_PER_THREAD = 2
"""The handle `cudaStreamPerThread`."""

_counters: dict[tuple[int, int], Tensor] = {}
"""Of each device and stream. A kernel leaves 0 behind, and is alone on its stream: it needs no other."""


def address(device: int) -> int:
    """The address of the counter for a kernel that is launched now, on the current stream of a CUDA device.

    0 while the stream is being captured: a graph may be replayed on any stream, beside whatever runs there.
    And 0 for the stream that is another one in each thread.
    """
    stream = torch.cuda.current_stream(device).cuda_stream
    if stream == _PER_THREAD or torch.cuda.is_current_stream_capturing():
        return 0
    key = device, stream
    counter = _counters.get(key)
    if counter is None:
        # Zeroed on the stream that it is for, so before any kernel that counts; kept for good.
        zero = torch.zeros(2, dtype=torch.int32, device=torch.device("cuda", device))
        counter = _counters.setdefault(key, zero)
    return counter.data_ptr()
