"""What the tests on a GPU know of tensors."""

import functools
from typing import Any

import torch

from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.launch_policy import LaunchFlags
from cute_gemm.plan.limits import OUT_BYTES, SEMAPHORE_WORDS, ceil_div
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.runtime import hardware

DTYPES = {name: getattr(torch, name) for name in OUT_BYTES}
"""The types a result may have, by the names configurations give them."""


def bits(x: torch.Tensor) -> torch.Tensor:
    """The same memory as integers: NaNs and zeros of different signs differ, too."""
    return x.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[x.element_size()])


def m_major_amid_nans(sa: torch.Tensor, before: int = 0, behind: int = 0) -> torch.Tensor:
    """The same scales, M-major with steps of 16 bytes, and at least as much NaN around those of a k-block."""
    *matrices, rows, k_blocks = sa.shape
    width = 4 * ceil_div(before + rows + behind, 4)
    view = sa.new_full((*matrices, k_blocks, width), torch.nan)[..., before : before + rows].mT
    view.copy_(sa)
    return view


def scales_for(config: KernelConfig, sa: torch.Tensor) -> torch.Tensor:
    """Scales of A as a kernel takes them: M-major for TMA."""
    return m_major_amid_nans(sa) if config.tma_scales else sa


def problem_here(m: int, n: int, k: int, **more: Any) -> GemmProblem:
    """A problem as a call on the current device poses it."""
    card = hardware.card()
    return GemmProblem(m, n, k, **{"num_sms": card.sms, "card": card, **more})


FLAGS = int(LaunchFlags.EVICT_FIRST_B)
"""The flags of kernels that are launched by themselves: no result depends on them."""


@functools.cache
def semaphore() -> torch.Tensor:
    """What clusters draw their tiles from; a kernel leaves 0."""
    return torch.zeros(SEMAPHORE_WORDS, dtype=torch.int32, device="cuda")
