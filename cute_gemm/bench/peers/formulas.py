"""Quantisers in torch alone: the reference's formulas, one operation after the other or compiled."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...measure.calls import Call, judge_within
from ...measure.quantizing import QuantizerCase
from ...measure.records import CHAIN, COLD, COMPILED, ROW_MAJOR, TORCH
from . import QUANTIZED_LIMIT, why_no_cuda


@dataclass(frozen=True)
class Formulas:
    """What a program without kernels of its own runs.

    Args:
        name: what it goes by on the command line.
        label: the same in a record.
        is_compiled: by `torch.compile`, for the very shape.
    """

    name: str = "torch"
    label: str = TORCH
    is_compiled: bool = False
    regimes: tuple[str, ...] = (COLD, CHAIN)

    def available(self) -> str | None:
        return why_no_cuda()

    def versions(self) -> dict[str, str]:
        return {}

    def calls(self, case: QuantizerCase) -> Sequence[Call]:
        formula, read = case.form.formula, case.own_sources()
        if self.is_compiled:
            # What was compiled for other shapes counts towards what Dynamo makes of a function at most.
            torch.compiler.reset()
            formula = torch.compile(formula, fullgraph=True, dynamic=False)
        error = functools.partial(case.error, read)
        run = functools.partial(formula, **read)
        return [Call(self.label, run, judge_within(error, QUANTIZED_LIMIT), scale_layout=ROW_MAJOR)]


EAGER = Formulas()
COMPILED_FORMULAS = Formulas("torch_compile", COMPILED, is_compiled=True)
