"""A few small products, one for each kind of kernel, for compute-sanitizer to watch.

    compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9 python3 tests/gpu/sanitize.py
    compute-sanitizer --tool racecheck --report-api-errors no --error-exitcode 9 python3 tests/gpu/sanitize.py

Run it once without a tool before: kernels compiled then are found on disk. Tensors have allocations of their
own, to the byte, so that memcheck sees an access past their end; inputs are made and results are judged on
the CPU, so that hardly anything but the kernels runs on the GPU.
"""

import os

os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"

import torch

from cute_gemm import dispatch, heuristics
from cute_gemm.problem import KernelConfig
from cute_gemm.testing import assert_correct, make_inputs

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# Two multiprocessors: a CTA comes by several tiles, and its ring of buffers goes round.
NUM_SMS = 2


def pick(out_dtype: str = "bfloat16", **wanted: object) -> KernelConfig:
    """The largest configuration with these properties."""
    found = [
        config
        for config in heuristics.all_configs(out_dtype)
        if all(getattr(config, name) == value for name, value in wanted.items())
    ]
    return max(found, key=lambda config: (config.block_m * config.block_n, config.name))


CASES = {
    "one row, 64-row tile": (pick(block_m=64, temporaries=2), (1, 136, 144)),
    "two accumulators, 128-row tile": (
        pick(block_m=128, temporaries=2, cluster_m=1, cluster_n=1),
        (130, 72, 528),
    ),
    "two scales of B, multicast of B": (pick(block_m=128, straddles=True, cluster_m=2), (200, 264, 400)),
    "256-row tile, multicast of A": (pick(block_m=256, cluster_n=2), (300, 264, 272)),
    "fp32 result": (pick("float32", block_m=128, straddles=True, cluster_m=1, cluster_n=1), (66, 200, 144)),
    "fp32 result, multicast": (pick("float32", block_m=256, cluster_m=2), (258, 72, 16)),
}


def main() -> None:
    for title, (config, (m, n, k)) in CASES.items():
        (a, sa), (b, sb) = make_inputs(m, n, k)
        out = torch.full((m, n), torch.nan, dtype=DTYPES[config.out_dtype])
        on_gpu = [x.cuda() for x in (a, sa, b, sb, out)]
        dispatch.instance(config)(*on_gpu, NUM_SMS)
        torch.cuda.synchronize()
        error = assert_correct(on_gpu[-1].cpu(), a, sa, b, sb)
        print(f"{title}: {config.name}, {m} x {n} x {k}: worst tile {error:.1e}", flush=True)


if __name__ == "__main__":
    main()
