"""Times every candidate of the cost model on a Hopper GPU: what its constants are fitted to.

    python benchmarks/candidates.py --out /tmp/candidates.jsonl     # about three minutes on an H200
    python benchmarks/candidates.py --op m_grouped_masked --shapes 32x20x4096x4096 --out /tmp/masked.jsonl

After the candidates of a shape comes cuBLASLt (`torch._scaled_mm`, tensorwise fast-accumulate): at a dense
shape itself, where it takes that, and for grouped ones at a dense shape near by. Cold L2, row-major scales,
bf16 out, standard normal operands, and a rest before each. All candidates that sum k-blocks in one order must
give the same bits. `cost_model.py` shows how good the choices are.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cute_gemm import heuristics, testing
from cute_gemm.bench.cases import make_case
from cute_gemm.bench.peers.cublas import calibration_call, calibration_shape
from cute_gemm.bench.published import peer_shapes
from cute_gemm.bench.records import (
    COLD,
    CONTIGUOUS,
    DENSE,
    KEYS,
    MASKED,
    OFFSETS,
    Row,
    Shape,
    shape_text,
    write_rows,
)
from cute_gemm.bench.work import problem_of
from cute_gemm.compilation import compile_configs
from cute_gemm.problem import KernelConfig
from cute_gemm.tune.candidates import checked_calls

REPEATS = 10
REST_SECONDS = 0.1
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
    key = dict(zip(KEYS[op], shape, strict=True))
    tile = {
        name: getattr(config, name)
        for name in ("block_m", "block_n", "cluster_m", "cluster_n", "splits", "stages")
    }
    times = {"us": round(us, 2), "cublaslt_us": None if cublaslt_us is None else round(cublaslt_us, 2)}
    return {"op": op, **key, **tile, **times}


def time_cold(call: Callable[[], object]) -> float:
    """Mean in microseconds."""
    time.sleep(REST_SECONDS)
    return statistics.mean(testing.time_cold(call, REPEATS))


def time_shape(op: str, shape: Shape, num_sms: int) -> list[Row]:
    problem = problem_of(op, shape, num_sms)
    configs = [choice.config for choice in heuristics.rank(problem)]
    calls = checked_calls(problem, configs, make_case(op, shape))

    beside = shape if op == DENSE else calibration_shape(shape)
    has_cublaslt = beside[0] % 16 == 0
    times = [time_cold(call) for call in ([*calls, calibration_call(beside)] if has_cublaslt else calls)]
    cublaslt_us = times.pop() if has_cublaslt else None
    rows = [row_of(op, shape, config, us, cublaslt_us) for config, us in zip(configs, times, strict=True)]
    return sorted(rows, key=lambda row: row["us"])


def parse_shape(text: str) -> Shape:
    """``"64x2112x7168"`` as (64, 2112, 7168); of a grouped operation also the number of groups, in front."""
    return tuple(int(part) for part in text.split("x"))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--op", choices=MORE_SHAPES, default=DENSE)
    parser.add_argument("--shapes", nargs="+", type=parse_shape, metavar="[Gx]MxNxK")
    parser.add_argument("--out", type=Path, required=True, help="the JSON lines to write")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("candidates.py times a GPU, and torch sees none", file=sys.stderr)
        return 1
    op = options.op
    num_sms = torch.cuda.get_device_properties().multi_processor_count
    shapes = options.shapes or sorted({*peer_shapes(COLD, op), *MORE_SHAPES[op]})
    problems = [problem_of(op, shape, num_sms) for shape in shapes]
    compile_configs(choice.config for each in problems for choice in heuristics.rank(each))
    rows: list[Row] = []
    for shape in shapes:
        found = time_shape(op, shape, num_sms)
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
