"""DeepGEMM's products that make gradients of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from ...measure.calls import Call, judge_within
from ...measure.cases import Operand, in_layout
from ...measure.gradients import GradientCase
from ...measure.records import COLD, DEEPGEMM, DENSE_ADDED, K_GROUPED_ADDED, M_MAJOR, SUSTAINED
from . import PROMOTED_LIMIT
from .deep_gemm import DeepGemm, operation_of

# As tuples of rows of A, rows of B and columns that share a scale.
_RECIPE = (1, 1, 128)


class DeepGemmGradients:
    """Those that are added to an FP32 result: on Hopper it has no others of two operands scaled 1x128.

    Groups of columns it wants end to end, each a matrix by itself.
    """

    name = "deep_gemm"
    regimes = COLD, SUSTAINED

    def available(self) -> str | None:
        return DeepGemm().available()

    def versions(self) -> dict[str, str]:
        return DeepGemm().versions()

    def calls(self, case: GradientCase) -> Sequence[Call]:
        if case.op not in (DENSE_ADDED, K_GROUPED_ADDED):
            return []
        out = case.new_out()
        multiply = _dense(case, out) if case.op == DENSE_ADDED else _grouped(case, out)

        def run() -> Tensor:
            multiply()
            return out

        def judge(found: Tensor, before: Tensor | None) -> float:
            return judge_within(partial(case.error, before=before), PROMOTED_LIMIT)(found)

        return [case.call(DEEPGEMM, run, judge)]


def _dense(case: GradientCase, out: Tensor) -> Callable[[], None]:
    return partial(operation_of(case.op), case.inputs.lhs, case.inputs.rhs, out, c=out, recipe=_RECIPE)


def _grouped(case: GradientCase, out: Tensor) -> Callable[[], None]:
    groups = case.inputs.groups
    lhs, rhs = (_end_to_end(of_a_side) for of_a_side in zip(*groups, strict=True))
    sizes = [a.shape[1] for (a, _), _ in groups]
    on_device = torch.tensor(sizes, dtype=torch.int32, device=out.device)
    return partial(operation_of(case.op), lhs, rhs, out, sizes, on_device, c=out)


def _end_to_end(operands: Iterable[Operand]) -> Operand:
    """Matrices one behind the other, and all their scales ``[rows, k-blocks]``, M-major."""
    values, scales = zip(*operands, strict=True)
    # Not all torch versions put e4m3 together.
    as_bytes = torch.cat([each.contiguous().view(torch.uint8).flatten() for each in values])
    return as_bytes.view(torch.float8_e4m3fn), in_layout(torch.cat(scales, 1), M_MAJOR)
