"""What an ordinary Triton kernel reaches, if Triton is installed."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import Tensor

from ...measure.calls import Call, Results, judge_within
from ...measure.cases import Case, GroupedCase
from ...measure.quantizing import QuantizerCase
from ...measure.records import (
    ALL_REGIMES,
    CHAIN,
    COLD,
    CONTIGUOUS,
    DENSE,
    GATHERED,
    ROW_MAJOR,
    ROWS,
    SWIGLU,
    TRITON,
)
from . import PROMOTED_LIMIT, QUANTIZED_LIMIT, triton_version, why_no_triton


class _OfTriton:
    name = "triton"

    def available(self) -> str | None:
        return why_no_triton()

    def versions(self) -> dict[str, str]:
        return triton_version()


class Triton(_OfTriton):
    """Dense and contiguous products by the kernels of `triton_kernels`."""

    regimes = ALL_REGIMES

    def calls(self, case: Case) -> Sequence[Call]:
        if case.op not in (DENSE, CONTIGUOUS):
            return []
        from . import triton_kernels

        out = case.poisoned_out()

        def run() -> Tensor:
            if isinstance(case, GroupedCase):
                triton_kernels.multiply_groups(*case.lhs, *case.rhs, out, case.inputs.index)
            else:
                triton_kernels.multiply(*case.lhs, *case.rhs, out)
            return out

        return [Call(TRITON, run, judge_within(case.error, PROMOTED_LIMIT), scale_layout=ROW_MAJOR)]


class TritonQuantizers(_OfTriton):
    """1x128 of rows, of rows through an index and of SwiGLU, by the kernel of `triton_quantizers`."""

    regimes = COLD, CHAIN

    def calls(self, case: QuantizerCase) -> Sequence[Call]:
        if case.op not in (ROWS, GATHERED, SWIGLU):
            return []
        from . import triton_quantizers

        read, (q, s) = case.own_sources(), case.poisoned_results(ROW_MAJOR)
        x, rows = read["x"], read.get("rows")

        def run() -> Results:
            triton_quantizers.quantize(x, rows, q, s)
            return q, s

        error = functools.partial(case.error, read)
        return [Call(TRITON, run, judge_within(error, QUANTIZED_LIMIT), scale_layout=ROW_MAJOR)]
