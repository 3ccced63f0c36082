"""What is taken from inside torch, and why: each saves about a microsecond of a warm call's fifteen.

Nothing else in the package uses a private name of torch. Each has a public function that does the same, which
is used where the private one is not there (docs/performance.md, 68).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _empty_strided_publicly(size: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="cuda")


def _raw_stream_publicly(device: int) -> int:
    return int(torch.cuda.current_stream(device).cuda_stream)


# As the code that Inductor generates does.
empty_strided_cuda: Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], Tensor] = getattr(
    getattr(getattr(torch._C, "_dynamo", None), "guards", None),
    "_empty_strided_cuda",
    _empty_strided_publicly,
)
"""An uninitialised tensor of a size, stride and dtype on the current CUDA device."""

current_raw_stream: Callable[[int], int] = getattr(
    torch._C, "_cuda_getCurrentRawStream", _raw_stream_publicly
)
"""The handle of the current stream of a CUDA device."""
