"""A few small products, one for each kind of kernel, for compute-sanitizer to watch.

    compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9 python3 tests/gpu/sanitize.py
    compute-sanitizer --tool racecheck --report-api-errors no --error-exitcode 9 python3 tests/gpu/sanitize.py

Run it once without a tool before: kernels compiled then are found on disk. Tensors have allocations of their
own, to the byte, so that memcheck sees an access past their end; inputs are made and results are judged on
the CPU, so that hardly anything but the kernels runs on the GPU. The names of cases pick some of them.
"""

import os
import sys
from typing import NamedTuple

import torch
from tensors import DTYPES

from cute_gemm import dispatch, heuristics
from cute_gemm.problem import KernelConfig
from cute_gemm.testing import assert_correct, make_inputs

# One cluster, or two CTAs without one. A race between tiles needs a CTA that comes by several, one within the
# ring needs stages that are filled again: tests/unit/test_sanitize.py holds every case to both.
NUM_SMS = 2


class Case(NamedTuple):
    config: KernelConfig
    m: int
    n: int
    k: int


def pick(out_dtype: str = "bfloat16", **wanted: object) -> KernelConfig:
    """Of the configurations with these properties the one with the largest tile, and the smallest cluster."""
    found = [
        config
        for config in heuristics.all_configs(out_dtype)
        if all(getattr(config, name) == value for name, value in wanted.items())
    ]
    return max(found, key=lambda config: (config.block_m * config.block_n, -config.cluster_size))


CASES = {
    # 64 rows: two accumulators, and a warp that asks for scales ahead.
    "64": Case(pick(block_m=64, cluster_size=1), 70, 200, 1040),
    "64, two scales of B, multicast of A": Case(pick(block_m=64, straddles=True, cluster_n=2), 1, 264, 1168),
    "64, cluster of four": Case(pick(block_m=64, cluster_n=4), 70, 328, 912),
    "64, fp32, multicast of A": Case(pick("float32", block_m=64, cluster_n=2), 1, 264, 1040),
    # 128 and 256 rows: two warpgroups that take turns.
    "128": Case(pick(block_m=128, straddles=False, cluster_size=1), 130, 264, 528),
    "128, two scales of B, multicast of B": Case(
        pick(block_m=128, straddles=True, cluster_m=2), 300, 184, 784
    ),
    "256, multicast of A": Case(pick(block_m=256, cluster_n=2), 300, 136, 528),
    # More chunks than store buffers, which are used again within a tile and by the next.
    "128, fp32": Case(pick("float32", block_m=128, straddles=True, cluster_size=1), 130, 200, 528),
    "256, fp32, multicast of B": Case(pick("float32", block_m=256, cluster_m=2), 600, 72, 528),
}


def run(case: Case) -> float:
    """The error of the worst tile.

    Raises:
        AssertionError: the result is wrong.
    """
    config, m, n, k = case
    (a, sa), (b, sb) = make_inputs(m, n, k)
    out = torch.full((m, n), torch.nan, dtype=DTYPES[config.out_dtype])
    on_gpu = [x.cuda() for x in (a, sa, b, sb, out)]
    assert torch.cuda.memory_reserved() == 0, "tensors share allocations"
    dispatch.instance(config)(*on_gpu, NUM_SMS)
    torch.cuda.synchronize()
    return assert_correct(on_gpu[-1].cpu(), a, sa, b, sb)


def main() -> None:
    # Read by torch at the first allocation. Not set on import, which must not change whoever imports this.
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    for title in sys.argv[1:] or CASES:
        config, m, n, k = CASES[title]
        print(f"{title}: {config.name}, {m} x {n} x {k}: worst tile {run(CASES[title]):.1e}", flush=True)


if __name__ == "__main__":
    main()
