"""What a launch hands to the kernel, and the kernel to its roles."""

from dataclasses import dataclass
from typing import Any

import cutlass.cute as cute
from cutlass import Int32, Int64

from .sm90.pipelines import Ring
from .sm90.tma import TmaLoad
from .work_queue import WorkQueue


@dataclass(frozen=True)
class LaunchOptions:
    """What of a call is no operand, see :meth:`Fp8Gemm1D2D.__call__`."""

    num_sms: Int32
    flags: Int32
    semaphore: Int64
    stream: Any


@dataclass(frozen=True)
class Operands:
    """What a call's tensors are in the kernel."""

    a: TmaLoad
    b: TmaLoad
    out: Any  # of the store
    scales: Any  # of the scaling
    value: tuple  # of the value


@dataclass(frozen=True)
class Smem:
    """What roles share in shared memory."""

    ring: Ring
    tiles: WorkQueue
    sA: cute.Tensor  # (bM, bK, stages)
    sA_mma: cute.Tensor  # (max(bM, 64), bK, stages)
    sB: cute.Tensor  # (bN, bK, stages)
    scales: Any  # of the scaling
    store: Any  # of the store
