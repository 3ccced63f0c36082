"""What a kernel takes that copies, and moves as many bytes: what others are held against."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...measure.calls import Call
from ...measure.cases import Case
from ...measure.quantizing import QuantizerCase
from ...measure.records import CHAIN, COLD, COPY
from ...measure.work import Work
from . import why_no_cuda


class _Copies:
    name = "copy"

    def available(self) -> str | None:
        return why_no_cuda()

    def versions(self) -> dict[str, str]:
        return {}


class Copy(_Copies):
    """Reads half of a product's bytes and writes the other half, to and from memory of each layer's own."""

    regimes = (CHAIN,)

    def calls(self, case: Case) -> Sequence[Call]:
        # `copy_` may be the work of a copy engine, which is no measure for a kernel.
        return [_negating(_floats_for(Work.of(case.op, case.shape), case.lhs[0].device))]


class CopyOfQuantizer(_Copies):
    """The same of a quantiser's bytes; by whatever torch copies with, too, as the faster one is the bar."""

    regimes = COLD, CHAIN

    def calls(self, case: QuantizerCase) -> Sequence[Call]:
        source = _floats_for(Work.of(case.op, case.shape), case.sources["x"].device)
        copy = functools.partial(torch.empty_like(source).copy_, source)
        return [
            Call(COPY, copy, functools.partial(_judge, source), config="copy_"),
            _negating(source, config="neg"),
        ]


def _floats_for(work: Work, device: torch.device) -> Tensor:
    """As much as a copy reads that moves the bytes of ``work``."""
    return torch.rand(work.bytes_moved // 2 // torch.float32.itemsize, device=device)


def _negating(source: Tensor, config: str | None = None) -> Call:
    run: Callable[[], Tensor] = functools.partial(torch.neg, source, out=torch.empty_like(source))
    return Call(COPY, run, lambda copy: _judge(source, -copy), config=config)


def _judge(source: Tensor, copy: Tensor) -> float:
    """No error, if all was copied.

    Raises:
        AssertionError: it was not.
    """
    if not torch.equal(source, copy):
        raise AssertionError("the copy differs")
    return 0.0
