"""What an ordinary Triton kernel reaches, if Triton is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from importlib import metadata

from torch import Tensor

from ...measure.calls import Call, judge_within
from ...measure.cases import Case, GroupedCase
from ...measure.records import ALL_REGIMES, CONTIGUOUS, DENSE, ROW_MAJOR, TRITON
from . import PROMOTED_LIMIT


class Triton:
    """Dense and contiguous products by the kernels of `triton_kernels`."""

    name = "triton"
    regimes = ALL_REGIMES

    def available(self) -> str | None:
        return None if importlib.util.find_spec("triton") else "the package triton is not installed"

    def versions(self) -> dict[str, str]:
        return {"triton": metadata.version("triton")}

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
