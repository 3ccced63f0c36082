"""cuBLASLt, through torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ... import testing
from ...measure.calls import Call, judge_within
from ...measure.cases import Case, DenseCase
from ...measure.records import ALL_REGIMES, BLOCKWISE, DENSE, FAST, M_MAJOR, Row, key_of
from ...measure.shapes import Shape
from . import FAST_LIMIT, PROMOTED_LIMIT, why_no_cuda

# Groups of fewer rows take the time that reading their weights takes, others that of the tensor cores.
_FEW_ROWS = 128
_READING, _MULTIPLYING = (64, 7168, 16384), (4096, 4096, 7168)


class Cublas:
    """Dense products: tensorwise with fast accumulation, an easier problem and so the ceiling; and blockwise.

    It has no grouped operation of this kind.
    """

    name = "cublas"
    regimes = ALL_REGIMES

    def available(self) -> str | None:
        return why_no_cuda()

    def versions(self) -> dict[str, str]:
        return {}

    def calls(self, case: Case) -> Sequence[Call]:
        if not isinstance(case, DenseCase):
            return []
        return [fast_call(case), blockwise_call(case)]


def fast_call(case: DenseCase) -> Call:
    """One scale per matrix, which is 1, and sums that stay in the tensor core."""
    (a, _), (b, _) = case.lhs, case.rhs
    one = torch.ones((), device=a.device)

    def run() -> Tensor:
        return torch._scaled_mm(
            a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    def error(out: Tensor) -> float:
        return testing.worst_tile_error(out, case.unscaled_product)

    return Call(FAST, run, judge_within(error, FAST_LIMIT))


def blockwise_call(case: DenseCase) -> Call:
    """The same mathematics as ours."""
    (a, sa), (b, sb) = case.lhs, case.rhs
    # It is given no strides of scales, so they must not be padded.
    sa = sa.t().contiguous().t()

    def run() -> Tensor:
        return torch._scaled_mm(a, b.t(), scale_a=sa, scale_b=sb.t(), out_dtype=torch.bfloat16)

    return Call(BLOCKWISE, run, judge_within(case.error, PROMOTED_LIMIT), scale_layout=M_MAJOR)


def calibration_shape(shape: Shape) -> Shape:
    """The dense shape of the peers' figures that is bound by what this grouped one is bound by."""
    return _READING if shape[1] < _FEW_ROWS else _MULTIPLYING


@functools.cache
def calibration_call(shape: Shape, device: str = "cuda") -> Call:
    """cuBLASLt at a dense shape: how fast this card is today."""
    return fast_call(DenseCase.make(shape, device))


def calibration_record(shape: Shape, us: float) -> Row:
    """What a grouped row keeps of it."""
    return {"op": DENSE, **key_of(DENSE, shape), "peer": FAST, "us": round(us, 3)}
