"""Has peers that compile a kernel at a first call do so in several processes, before anything is timed."""

from __future__ import annotations

import functools
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch
from drawn_shapes import MOST_BYTES, Draw
from operand_pool import OperandPool

from cute_gemm.bench.peers.registry import PEERS

# Each has a context on the GPU, and operands.
_MOST_WORKERS = 12


def call_peers(names: Sequence[str], draws: Sequence[Draw]) -> None:
    """Call peers once for each problem; what they refuse is refused again where it is timed."""
    started = time.perf_counter()
    workers = max(1, min(len(draws), len(os.sched_getaffinity(0)), _MOST_WORKERS))
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            refused = sum(pool.map(functools.partial(_refuses, tuple(names)), draws))
        found = f"{len(draws)} problems called, {refused} of them refused by one"
    # They compile where they are timed, then.
    except BrokenProcessPool:
        found = "a process that called them was killed"
    print(f"{', '.join(names)}: {found}, {time.perf_counter() - started:.1f} s", flush=True)


def _refuses(names: Sequence[str], draw: Draw) -> bool:
    """Whether one of the peers does not take a problem, or has no such operation."""
    try:
        (case,) = blank_pool("cuda").cases(draw, 1)
        calls = [call for name in names for call in PEERS[name].calls(case)]
        for call in calls:
            call()
        torch.cuda.synchronize()
    # What peers raise is their affair.
    except Exception:
        return True
    return not calls


@functools.cache
def blank_pool(device: str) -> OperandPool:
    """As large as one layer needs: whatever the memory holds, the same kernel computes it."""
    values = torch.zeros(2 * MOST_BYTES + (64 << 20), dtype=torch.uint8, device=device)
    scales = torch.ones(len(values) // 128, device=device)
    return OperandPool(values.view(torch.float8_e4m3fn), scales, torch.empty(0, device=device))
