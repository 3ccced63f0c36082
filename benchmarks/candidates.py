"""Times every candidate of the cost model on a Hopper GPU: what its constants are fitted to.

    python benchmarks/candidates.py --out /tmp/candidates.jsonl     # about three minutes on an H200

The candidates of a shape take turns, with cuBLASLt (`torch._scaled_mm`, tensorwise fast-accumulate) among
them where it takes the shape: cold L2, row-major scales, bf16 out, standard normal operands. All candidates
must give the same bits, since each adds up the same k-blocks in the same order. `cost_model.py` shows how
good the choices are.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

import records
import torch
from dense import compile_configs, parse_shape
from records import COLD, Row, Shape

from cute_gemm import dispatch, heuristics, testing
from cute_gemm.problem import GemmProblem, KernelConfig

REPEATS = 5
# Between the peers' shapes, where the choice changes most.
MORE_SHAPES: list[Shape] = [
    (16, 4096, 7168),
    (32, 7168, 2048),
    (256, 4096, 7168),
    (256, 7168, 2048),
    (1024, 2112, 7168),
    (1024, 4096, 7168),
    (2048, 7168, 2048),
]


def row_of(shape: Shape, config: KernelConfig, us: float, cublaslt_us: float | None) -> Row:
    m, n, k = shape
    tile = {
        name: getattr(config, name) for name in ("block_m", "block_n", "cluster_m", "cluster_n", "stages")
    }
    times = {"us": round(us, 2), "cublaslt_us": None if cublaslt_us is None else round(cublaslt_us, 2)}
    return {"m": m, "n": n, "k": k, **tile, **times}


def time_shape(problem: GemmProblem) -> list[Row]:
    (a, sa), (b, sb) = testing.make_inputs(problem.m, problem.n, problem.k, device="cuda")
    out = torch.empty(problem.m, problem.n, dtype=torch.bfloat16, device="cuda")
    configs = [choice.config for choice in heuristics.rank(problem)]
    calls, expected = [], None
    for config in configs:
        call = functools.partial(dispatch.instance(config), a, sa, b, sb, out, problem.num_sms)
        out.fill_(torch.nan)
        call()
        if expected is None:
            testing.assert_correct(out, a, sa, b, sb)
            expected = out.clone()
        if not torch.equal(out, expected):
            raise AssertionError(f"{config.name} differs from {configs[0].name} at {problem}")
        calls.append(call)

    one = torch.ones((), device="cuda")
    multiply = functools.partial(
        torch._scaled_mm, a, b.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True
    )
    has_cublaslt = problem.m % 16 == 0
    times = testing.time_cold_together([*calls, multiply] if has_cublaslt else calls, REPEATS)
    cublaslt_us = times[-1].median_us if has_cublaslt else None
    shape = problem.m, problem.n, problem.k
    rows = [
        row_of(shape, *each, cublaslt_us) for each in zip(configs, (t.median_us for t in times), strict=False)
    ]
    return sorted(rows, key=lambda row: row["us"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", type=parse_shape, metavar="MxNxK")
    parser.add_argument("--out", type=Path, required=True, help="the JSON lines to write")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("candidates.py times a GPU, and torch sees none", file=sys.stderr)
        return 1
    num_sms = torch.cuda.get_device_properties().multi_processor_count
    shapes = options.shapes or sorted({*records.peer_shapes(COLD), *MORE_SHAPES})
    compile_configs(heuristics.all_configs())
    rows: list[Row] = []
    for m, n, k in shapes:
        found = time_shape(GemmProblem(m, n, k, num_sms=num_sms))
        best = ", ".join(
            f"{row['block_m']}x{row['block_n']} c{row['cluster_m']}x{row['cluster_n']} {row['us']:.1f}"
            for row in found[:4]
        )
        print(f"{m}x{n}x{k}: {best}; cuBLASLt {found[0]['cublaslt_us']}", flush=True)
        rows += found
        records.write_rows(options.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
