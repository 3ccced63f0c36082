"""Times the dense operation on a Hopper GPU in both regimes, checks every result, and writes JSON lines.

    python benchmarks/dense.py
    python benchmarks/dense.py --regime cold --shapes 4096x4096x7168 64x2112x7168 --out /tmp/results

Cold: mean device time over 20 calls of the operation's own kernels (CUPTI), after writing 256 MiB each.
Sustained: two seconds of back-to-back calls, mean of the second half. Operands: standard normal, quantised.
Cards differ by a few percent: with --calibrate, cuBLASLt (`torch._scaled_mm`) is timed between our rows.
A file is replaced by what is measured, row by row: give a run of some shapes another --out. What is wrong or
cannot be timed ends its shape, not the run; the exit status then is 1.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import records
import torch
from comparison import compare, text_table
from records import BLOCKWISE, COLD, DENSE, FAST, M_MAJOR, OURS, ROW_MAJOR, SUSTAINED, Row, Shape, Work
from torch import Tensor

import cute_gemm
from cute_gemm import dispatch, testing
from cute_gemm.problem import GemmProblem, KernelConfig
from cute_gemm.reference import dequantized_product, product_scale

# From this M on, both orders of A's scales are measured.
M_MAJOR_FROM = 128
SUSTAINED_SECONDS = 2.0
# So that no row starts at the clock that the one before left: twenty calls of milliseconds, then twenty of
# the next row, and so on, would soon be at the power limit, which the peers' cold rows were not.
REST_SECONDS = 0.1
COOL_DOWN_SECONDS = 0.3

Timer = Callable[[Callable[[], object]], tuple[float, float | None, float]]
"""Mean in microseconds, median where there is one, spread as a share."""


def time_cold(fn: Callable[[], object], repeats: int = 20) -> tuple[float, float | None, float]:
    time.sleep(REST_SECONDS)
    times = testing.time_cold(fn, repeats)
    return sum(times) / len(times), times.median_us, times.spread


def time_sustained(fn: Callable[[], object]) -> tuple[float, float | None, float]:
    """The mean is of the full two seconds; two short ones that follow at once tell how it moves."""
    time.sleep(COOL_DOWN_SECONDS)
    us = testing.time_sustained(fn, SUSTAINED_SECONDS)
    means = [us, testing.time_sustained(fn, 0.1), testing.time_sustained(fn, 0.1)]
    return us, None, (max(means) - min(means)) / us


@dataclass(frozen=True)
class Case:
    """One shape's operands, with what their product must be."""

    problem: GemmProblem
    a: Tensor
    sa: Tensor
    b: Tensor
    sb: Tensor
    product: Tensor
    scale: Tensor

    @staticmethod
    def make(problem: GemmProblem, device: str = "cuda") -> Case:
        (a, sa), (b, sb) = testing.make_inputs(problem.m, problem.n, problem.k, device=device)
        return Case(problem, a, sa, b, sb, dequantized_product(a, sa, b, sb), product_scale(a, sa, b, sb))

    @property
    def work(self) -> Work:
        return Work.of(DENSE, (self.problem.m, self.problem.n, self.problem.k))

    @property
    def m_major_sa(self) -> Tensor:
        """The scales of A with those of one k-block contiguous."""
        return self.sa.t().contiguous().t()

    def time_ours(self, timer: Timer, regime: str, layout: str, origin: Row) -> Row:
        """Our row. The output starts as NaN and is judged as the last timed call left it.

        Raises:
            AssertionError: the result is wrong; no row is made of it.
        """
        sa = self.sa if layout == ROW_MAJOR else self.m_major_sa
        out = torch.full_like(self.product, torch.nan, dtype=torch.bfloat16)
        us, median, spread = timer(lambda: cute_gemm.fp8_gemm_nt((self.a, sa), (self.b, self.sb), out))
        testing.assert_close_per_tile(out, self.product, self.scale)
        return records.measurement(
            self.work,
            OURS,
            us,
            median=median,
            spread=spread,
            regime=regime,
            scale_layout=layout,
            config=dispatch.select(self.problem).name,
            error_worst_tile=testing.worst_tile_error(out, self.product),
            origin=origin,
        )

    def time_cublaslt(self, timer: Timer, regime: str, peer: str, origin: Row) -> Row | None:
        """A calibration row; None where cuBLASLt refuses the shape."""
        fine = peer == BLOCKWISE
        one = torch.ones((), device=self.a.device)
        multiply = functools.partial(
            torch._scaled_mm,
            self.a,
            self.b.t(),
            scale_a=self.m_major_sa if fine else one,
            scale_b=self.sb.t() if fine else one,
            out_dtype=torch.bfloat16,
            use_fast_accum=not fine,
        )
        try:
            out = multiply()
        except (RuntimeError, ValueError) as refusal:
            print(f"  {peer}: refused: {str(refusal).splitlines()[0]}")
            return None
        us, median, spread = timer(multiply)
        return records.measurement(
            self.work,
            peer,
            us,
            median=median,
            spread=spread,
            regime=regime,
            scale_layout=M_MAJOR if fine else None,
            config=None,
            error_worst_tile=testing.worst_tile_error(out, self.product) if fine else None,
            origin=origin,
        )


def measure(problem: GemmProblem, regime: str, calibrate: bool, origin: Row) -> Iterator[Row]:
    """The rows of one shape, each as soon as it is measured."""
    timer = time_cold if regime == COLD else time_sustained
    case = Case.make(problem)
    yield case.time_ours(timer, regime, ROW_MAJOR, origin)
    if calibrate and (row := case.time_cublaslt(timer, regime, FAST, origin)):
        yield row
    if regime == SUSTAINED:
        return
    if problem.m >= M_MAJOR_FROM:
        yield case.time_ours(timer, regime, M_MAJOR, origin)
    if calibrate and (row := case.time_cublaslt(timer, regime, BLOCKWISE, origin)):
        yield row


def run(measurements: Iterable[tuple[str, Iterable[Row]]], path: Path) -> tuple[list[Row], list[str]]:
    """Takes all measurements of one file; each row is in the file before the next is measured.

    Args:
        measurements: a title, and rows that are measured as they are asked for.
        path: the file.

    Returns:
        The rows, and what went wrong: a line for each measurement that was left when it failed.
    """
    rows: list[Row] = []
    failures: list[str] = []
    records.write_rows(path, rows)
    started = time.perf_counter()
    for title, measured in measurements:
        try:
            for row in measured:
                rows.append(row)
                records.write_rows(path, rows)
                what = " ".join(filter(None, (row["peer"], row["config"], row["scale_layout"])))
                print(f"{title} {what}: {row['us']:.2f} us, {row['tflops']:.0f} TFLOP/s", flush=True)
        except (AssertionError, RuntimeError) as error:
            failures.append(f"{title}: {type(error).__name__}: {error}")
            print(f"FAILED {failures[-1]}", flush=True)
    print(f"{len(rows)} rows in {time.perf_counter() - started:.0f} s: {path}")
    return rows, failures


def compile_all(problems: Sequence[GemmProblem]) -> None:
    """Fill the disk cache with the kernels of `problems`."""
    configs = {dispatch.select(problem) for problem in problems}
    compile_configs(sorted(configs, key=lambda config: config.name))


def compile_configs(configs: Sequence[KernelConfig]) -> None:
    """Fill the disk cache with kernels, several at a time."""
    workers = min(len(configs), os.cpu_count() or 1, 16)
    started = time.perf_counter()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(compile_one, configs))
    print(f"{len(configs)} kernels ready after {time.perf_counter() - started:.1f} s")


def compile_one(config: KernelConfig) -> None:
    dispatch.instance(config)


def describe_origin() -> Row:
    """What the rows of a run share: versions, device and date."""
    versions = {"cute_gemm": cute_gemm.__version__, "torch": torch.__version__}
    found = {each.name.replace("_", "-"): each.version for each in metadata.distributions() if each.name}
    versions |= {name: found[name] for name in sorted(found) if name.startswith("nvidia-cutlass-dsl")}
    versions["tvm-ffi"] = metadata.version("apache-tvm-ffi")
    versions["cuda driver"] = driver_version()
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return {"versions": versions, "device": torch.cuda.get_device_name(), "date": date}


def driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def parse_shape(text: str) -> Shape:
    """``"64x2112x7168"`` as (64, 2112, 7168)."""
    m, n, k = (int(part) for part in text.split("x"))
    return m, n, k


def argument_parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """What all benchmarks of a peer's rows take; `name` is that of their files."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--regime", choices=(COLD, SUSTAINED, "all"), default="all")
    parser.add_argument("--out", type=Path, default=records.RESULTS, help=f"where {name}_REGIME.jsonl go")
    parser.add_argument("--calibrate", action=argparse.BooleanOptionalAction, default=True)
    return parser


def regimes_of(options: argparse.Namespace) -> tuple[str, ...]:
    return (COLD, SUSTAINED) if options.regime == "all" else (options.regime,)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argument_parser(__doc__, "dense")
    parser.add_argument(
        "--shapes", nargs="+", type=parse_shape, metavar="MxNxK", help="only these (default: the peers')"
    )
    return parser.parse_args(arguments)


def main() -> int:
    options = parse_arguments()
    if not torch.cuda.is_available():
        print("dense.py times a GPU, and torch sees none", file=sys.stderr)
        return 1
    origin = describe_origin()
    num_sms = torch.cuda.get_device_properties().multi_processor_count
    plan = {
        regime: [
            GemmProblem(m, n, k, num_sms=num_sms) for m, n, k in options.shapes or records.peer_shapes(regime)
        ]
        for regime in regimes_of(options)
    }
    compile_all([problem for problems in plan.values() for problem in problems])
    tables: list[str] = []
    failures: list[str] = []
    for regime, problems in plan.items():
        measurements = (
            (f"{regime} {each.m}x{each.n}x{each.k}", measure(each, regime, options.calibrate, origin))
            for each in problems
        )
        rows, failed = run(measurements, options.out / f"dense_{regime}.jsonl")
        tables.append(text_table(compare(rows, regime), regime))
        failures += failed
    return report(tables, failures)


def report(tables: Sequence[str], failures: Sequence[str]) -> int:
    """Prints how a run went, and gives its exit status."""
    print("\n" + "\n\n".join(tables))
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
