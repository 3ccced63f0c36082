"""What a kernel takes that copies, and moves as many bytes as a product: what a floor is held against."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ...measure.calls import Call
from ...measure.cases import Case
from ...measure.records import CHAIN, COPY
from ...measure.work import Work
from . import why_no_cuda


class Copy:
    """Reads half of a product's bytes and writes the other half, to and from memory of each layer's own."""

    name = "copy"
    regimes = (CHAIN,)

    def available(self) -> str | None:
        return why_no_cuda()

    def versions(self) -> dict[str, str]:
        return {}

    def calls(self, case: Case) -> Sequence[Call]:
        count = Work.of(case.op, case.shape).bytes_moved // 2 // torch.float32.itemsize
        source = torch.rand(count, device=case.lhs[0].device)
        # `copy_` may be the work of a copy engine, which is no measure for a kernel.
        run = functools.partial(torch.neg, source, out=torch.empty_like(source))
        return [Call(COPY, run, functools.partial(_judge, source))]


def _judge(source: Tensor, copy: Tensor) -> float:
    """No error, if all was copied, with the other sign.

    Raises:
        AssertionError: it was not.
    """
    if not torch.equal(-source, copy):
        raise AssertionError("the copy differs")
    return 0.0
