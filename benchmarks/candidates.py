"""Times every candidate of the cost model on a Hopper GPU: what its constants are fitted to.

    python benchmarks/candidates.py --out /tmp/candidates.jsonl     # about a minute on an H100
    python benchmarks/candidates.py --random 24 --seed 1 --out /tmp/random.jsonl
    python benchmarks/candidates.py --op m_grouped_masked --shapes 32x20x4096x4096 --out /tmp/masked.jsonl

The candidates of a shape take turns, but for those that the model predicts to take twice as long as its best
one, and among them cuBLASLt (`torch._scaled_mm`, tensorwise fast-accumulate): at a dense shape itself, where
it takes that, and for grouped ones at a dense shape near by. Cold L2, M-major scales, bf16 out, standard
normal operands, and a rest before each shape. All candidates that sum k-blocks in one order must give the
same bits. `cost_model.py` shows how good the choices are.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cute_gemm.bench.peers.cublas import calibration_call, calibration_shape
from cute_gemm.bench.published import peer_shapes
from cute_gemm.measure import arguments, cold
from cute_gemm.measure.cases import make_case
from cute_gemm.measure.device import require_hopper
from cute_gemm.measure.errors import CommandError
from cute_gemm.measure.records import (
    COLD,
    CONTIGUOUS,
    DENSE,
    MASKED,
    OFFSETS,
    Row,
    key_of,
    write_rows,
)
from cute_gemm.measure.shapes import Shape, shape_text
from cute_gemm.measure.work import problem_of
from cute_gemm.plan.card import Card
from cute_gemm.plan.config import KernelConfig
from cute_gemm.runtime import hardware
from cute_gemm.runtime.warmup import compile_configs
from cute_gemm.tune.calls import checked_calls, kernel_of
from cute_gemm.tune.tasks import configs_to_time

REPEATS = 10
REST_SECONDS = 0.1
WITHIN = 2.0  # times what the best is predicted to take
# Between the peers' shapes, where the choice changes most.
MORE_SHAPES: dict[str, list[Shape]] = {
    DENSE: [
        (16, 4096, 7168),
        (32, 7168, 2048),
        (256, 4096, 7168),
        (256, 7168, 2048),
        (1024, 2112, 7168),
        (1024, 4096, 7168),
        (2048, 7168, 2048),
    ],
    CONTIGUOUS: [(32, 256, 4096, 4096), (8, 1024, 4096, 7168), (64, 128, 7168, 2048)],
    OFFSETS: [(32, 256, 4096, 4096), (8, 1024, 4096, 7168), (64, 100, 7168, 2048), (128, 20, 4096, 4096)],
    MASKED: [(32, 64, 4096, 4096), (32, 100, 7168, 2048), (16, 512, 4096, 4096), (128, 8, 4096, 2048)],
}


def row_of(op: str, shape: Shape, config: KernelConfig, us: float, cublaslt_us: float | None) -> Row:
    tile = {
        name: getattr(config, name)
        for name in ("block_m", "block_n", "cluster_m", "cluster_n", "splits", "stages")
    }
    times = {"us": round(us, 2), "cublaslt_us": None if cublaslt_us is None else round(cublaslt_us, 2)}
    return {"op": op, **key_of(op, shape), **tile, **times}


def random_shapes(count: int, seed: int) -> list[Shape]:
    """Dense shapes: M from 1 to 4096, N from 512 to 16384 by 64, K from 512 to 8192 by 128, by logarithms."""
    draw = random.Random(seed)
    return [
        (
            round(2 ** draw.uniform(0, 12)),
            64 * round(2 ** draw.uniform(9, 14) / 64),
            128 * round(2 ** draw.uniform(9, 13) / 128),
        )
        for _ in range(count)
    ]


def time_shape(op: str, shape: Shape, card: Card) -> list[Row]:
    problem = problem_of(op, shape, card)
    configs = configs_to_time(problem, WITHIN)
    calls: list[Callable[[], object]] = checked_calls(problem, configs, make_case(op, shape))

    beside = shape if op == DENSE else calibration_shape(shape)
    has_cublaslt = beside[0] % 16 == 0
    if has_cublaslt:
        calls.append(calibration_call(beside))
    time.sleep(REST_SECONDS)
    times = [taken.median_us for taken in cold.time_cold_together(calls, REPEATS)]
    cublaslt_us = times.pop() if has_cublaslt else None
    rows = [row_of(op, shape, config, us, cublaslt_us) for config, us in zip(configs, times, strict=True)]
    return sorted(rows, key=lambda row: row["us"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--op", choices=MORE_SHAPES, default=DENSE)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--shapes", nargs="+", type=arguments.shape, metavar="[Gx]MxNxK")
    which.add_argument("--random", type=int, metavar="COUNT", help="as many dense shapes, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--out", type=Path, required=True, help="the JSON lines to write")
    options = parser.parse_args()
    try:
        require_hopper("candidates.py", "cost_model.py reads what it wrote on any machine")
    except CommandError as error:
        print(error, file=sys.stderr)
        return 1
    op = options.op
    if options.random and op != DENSE:
        parser.error("--random draws dense shapes")
    card = hardware.card()
    drawn = random_shapes(options.random, options.seed) if options.random else None
    shapes = options.shapes or drawn or sorted({*peer_shapes(COLD, op), *MORE_SHAPES[op]})
    problems = [problem_of(op, shape, card) for shape in shapes]
    compile_configs(kernel_of(each, config) for each in problems for config in configs_to_time(each, WITHIN))
    rows: list[Row] = []
    for shape in shapes:
        found = time_shape(op, shape, card)
        best = ", ".join(
            f"{row['block_m']}x{row['block_n']} c{row['cluster_m']}x{row['cluster_n']} {row['us']:.1f}"
            for row in found[:4]
        )
        print(f"{shape_text(shape)}: {best}; cuBLASLt {found[0]['cublaslt_us']}", flush=True)
        rows += found
        write_rows(options.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
