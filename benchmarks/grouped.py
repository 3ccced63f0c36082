"""Times the grouped operations on a Hopper GPU, checks every result, and writes JSON lines.

    python benchmarks/grouped.py
    python benchmarks/grouped.py --regime cold --ops m_grouped_masked --out /tmp/results

Shapes are those that DeepGEMM was measured at; groups have the rows that it was given. The contiguous layout
and the same rows without padding (offsets) are measured one after the other: both orders of A's scales and,
with --calibrate, cuBLASLt at a dense shape of the peers'. Regimes, files and failures are
as in dense.py. Rates count padding, as the peers' do: of two times at a shape the lower is the better one,
whatever the rates are.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import records
import torch
from comparison import compare, geometric_mean, speeds_without_padding, text_table
from dense import (
    argument_parser,
    compile_configs,
    describe_origin,
    regimes_of,
    report,
    run,
    time_cold,
    time_sustained,
)
from records import (
    COLD,
    CONTIGUOUS,
    DENSE,
    FAST,
    M_MAJOR,
    MASKED,
    OFFSETS,
    OURS,
    ROW_MAJOR,
    Row,
    Shape,
    Work,
)
from torch import Tensor

import cute_gemm
from cute_gemm import dispatch, testing
from cute_gemm.problem import KernelConfig

OPS = (CONTIGUOUS, OFFSETS, MASKED)
# What the peers had; `records.draw_rows` never comes near it.
MASKED_CAPACITY = 4096
# Groups of fewer rows take the time that reading their weights takes, others that of the tensor cores.
FEW_ROWS = 128
READING, MULTIPLYING = (64, 7168, 16384), (4096, 4096, 7168)


@dataclass(frozen=True)
class Case:
    """One shape's operands in the layout of one operation."""

    op: str
    shape: Shape
    inputs: testing.GroupedInputs

    @staticmethod
    def make(op: str, shape: Shape, device: str = "cuda") -> Case:
        groups, expected_m, n, k = shape
        rows = records.draw_rows(groups, expected_m)
        if op == CONTIGUOUS:
            inputs = testing.make_contiguous_inputs(rows, n, k, device=device)
        elif op == OFFSETS:
            inputs = testing.make_offsets_inputs(rows, n, k, device=device)
        else:
            inputs = testing.make_masked_inputs(rows, MASKED_CAPACITY, n, k, device=device)
        # Rows of no group are NaN, which costs less power than numbers.
        (a, sa), empty = inputs.lhs, inputs.row_groups < 0
        count, given = int(empty.sum()), a.view(torch.uint8)[~empty]
        a.view(torch.uint8)[empty] = given[torch.arange(count, device=device) % len(given)]
        sa[empty] = 1.0
        return Case(op, shape, inputs)

    @property
    def grouping(self) -> tuple[Tensor | int, ...]:
        """What a kernel is given to tell groups apart."""
        return (self.inputs.index, 1) if self.op == OFFSETS else (self.inputs.index,)

    def poisoned_out(self) -> Tensor:
        n, (a, _) = self.shape[2], self.inputs.lhs
        return torch.full((*a.shape[:-1], n), torch.nan, dtype=torch.bfloat16, device=a.device)

    def call(self, layout: str, out: Tensor) -> Callable[[], object]:
        """The operation on these operands, as a user calls it."""
        (a, sa), rhs, index = self.inputs.lhs, self.inputs.rhs, self.inputs.index
        lhs = (a, sa if layout == ROW_MAJOR else sa.mT.contiguous().mT)
        if self.op == CONTIGUOUS:
            return lambda: cute_gemm.m_grouped_fp8_gemm_nt_contiguous(lhs, rhs, index, out)
        if self.op == OFFSETS:
            return lambda: cute_gemm.m_grouped_fp8_gemm_nt_offsets(lhs, rhs, index, out)
        return lambda: cute_gemm.m_grouped_fp8_gemm_nt_masked(lhs, rhs, index, self.shape[1], out)

    def judge(self, out: Tensor) -> float:
        """The error of the worst tile of a result that was poisoned before.

        Raises:
            AssertionError: it is wrong, or a row of no group was written.
        """
        inputs = self.inputs
        worst = testing.assert_grouped_correct(out, inputs.lhs, inputs.rhs, inputs.row_groups)
        if not out[inputs.row_groups < 0].isnan().all():
            raise AssertionError("a row of no group was written")
        return worst


def ops_at(ops: Sequence[str], regime: str) -> dict[tuple[str, Shape], list[str]]:
    """Which of `ops` share operands, by the operation and the shape that peers were measured at."""
    shared: dict[tuple[str, Shape], list[str]] = {}
    for op in ops:
        for shape in records.peer_shapes(regime, op):
            shared.setdefault((records.PEER_OPS[op], shape), []).append(op)
    return shared


def measure(ops: Sequence[str], shape: Shape, regime: str, calibrate: bool, origin: Row) -> Iterator[Row]:
    """The rows of some operations at one shape, all measured together.

    Raises:
        AssertionError: a result is wrong; no row is made of it, nor of those after it.
    """
    layouts = (ROW_MAJOR, M_MAJOR) if regime == COLD else (ROW_MAJOR,)
    timed = [
        (case, layout, case.poisoned_out())
        for case in (Case.make(op, shape) for op in ops)
        for layout in layouts
    ]
    calls = [case.call(layout, out) for case, layout, out in timed]
    beside = calibration_shape(shape)
    timer = time_cold if regime == COLD else time_sustained
    times = [timer(call) for call in ([*calls, cublaslt_call(beside)] if calibrate else calls)]
    cublaslt_us = times.pop()[0] if calibrate else None
    num_sms = torch.cuda.get_device_properties().multi_processor_count
    for (case, layout, out), (us, median, spread) in zip(timed, times, strict=True):
        row = records.measurement(
            Work.of(case.op, shape),
            OURS,
            us,
            median=median,
            spread=spread,
            regime=regime,
            scale_layout=layout,
            config=dispatch.select(records.problem_of(case.op, shape, num_sms)).name,
            error_worst_tile=case.judge(out),
            origin=origin,
        )
        if cublaslt_us is not None:
            key = dict(zip(records.KEYS[DENSE], beside, strict=True))
            row["calibration"] = {"op": DENSE, **key, "peer": FAST, "us": round(cublaslt_us, 3)}
        yield row


def calibration_shape(shape: Shape) -> Shape:
    """The dense shape of the peers' that is bound by what this grouped one is bound by."""
    return READING if shape[1] < FEW_ROWS else MULTIPLYING


@functools.cache
def cublaslt_call(shape: Shape) -> Callable[[], object]:
    """cuBLASLt, tensorwise with fast accumulation, at a dense shape: how fast this card is today."""
    (a, _), (b, _) = testing.make_inputs(*shape, device="cuda")
    one = torch.ones((), device="cuda")
    return functools.partial(
        torch._scaled_mm, a, b.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def configs_of(plan: dict[str, dict[tuple[str, Shape], list[str]]], num_sms: int) -> list[KernelConfig]:
    """The kernels that a plan needs."""
    chosen = {
        dispatch.select(records.problem_of(op, shape, num_sms))
        for shared in plan.values()
        for (_, shape), ops in shared.items()
        for op in ops
    }
    return sorted(chosen, key=lambda config: config.name)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argument_parser(__doc__, "grouped")
    parser.add_argument("--ops", nargs="+", choices=OPS, default=OPS, help="only these")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse_arguments()
    if not torch.cuda.is_available():
        print("grouped.py times a GPU, and torch sees none", file=sys.stderr)
        return 1
    origin = describe_origin()
    plan = {regime: ops_at(options.ops, regime) for regime in regimes_of(options)}
    compile_configs(configs_of(plan, torch.cuda.get_device_properties().multi_processor_count))
    tables: list[str] = []
    failures: list[str] = []
    for regime, shared in plan.items():
        measurements = (
            (f"{regime} {'x'.join(map(str, shape))}", measure(ops, shape, regime, options.calibrate, origin))
            for (_, shape), ops in shared.items()
        )
        rows, failed = run(measurements, options.out / f"grouped_{regime}.jsonl")
        for op in options.ops:
            if compared := compare(rows, regime, op):
                tables.append(text_table(compared, f"{regime} {op}"))
        if speeds := speeds_without_padding(rows, regime):
            mean, least = geometric_mean(speeds), min(speeds)
            tables.append(f"{regime} offsets, relative to contiguous: {mean:.3f}, least {least:.3f}")
        failures += failed
    return report(tables, failures)


if __name__ == "__main__":
    sys.exit(main())
