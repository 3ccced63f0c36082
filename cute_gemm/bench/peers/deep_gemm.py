"""DeepGEMM, if the package is installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...measure.calls import Call, judge_within
from ...measure.cases import Case, in_layout
from ...measure.records import (
    ALL_REGIMES,
    CONTIGUOUS,
    DEEPGEMM,
    DENSE,
    DENSE_ADDED,
    K_GROUPED_ADDED,
    M_MAJOR,
    MASKED,
)
from . import PROMOTED_LIMIT

_NAMES = {
    DENSE: ("fp8_gemm_nt", "gemm_fp8_fp8_bf16_nt"),
    CONTIGUOUS: ("m_grouped_fp8_gemm_nt_contiguous", "m_grouped_gemm_fp8_fp8_bf16_nt_contiguous"),
    MASKED: (
        "m_grouped_fp8_gemm_nt_masked",
        "fp8_m_grouped_gemm_nt_masked",
        "m_grouped_gemm_fp8_fp8_bf16_nt_masked",
    ),
    DENSE_ADDED: ("fp8_gemm_nt",),
    K_GROUPED_ADDED: ("k_grouped_fp8_gemm_nt_contiguous",),
}
"""What its operations are and were called, newest first. Their leading arguments have stayed the same."""


@dataclass(frozen=True)
class DeepGemm:
    """The same operations as ours, less those without padding.

    Args:
        name: what it goes by on the command line.
        label: the same in a record.
        pdl: by programmatic dependent launch, for which it has a switch.
        regimes: in which it is timed.
    """

    name: str = "deep_gemm"
    label: str = DEEPGEMM
    pdl: bool = False
    regimes: tuple[str, ...] = ALL_REGIMES

    def available(self) -> str | None:
        if importlib.util.find_spec("deep_gemm") is None:
            return "the package deep_gemm is not installed"
        try:
            module = importlib.import_module("deep_gemm")
        # An extension module that does not fit raises whatever it likes.
        except Exception as error:
            return f"deep_gemm cannot be imported: {' '.join(str(error).split())}"
        if module.__name__.startswith("cute_gemm."):
            return "the deep_gemm that is installed is cute_gemm's drop-in"
        if self.pdl and not hasattr(module, "set_pdl"):
            return "this deep_gemm has no set_pdl"
        return None

    def versions(self) -> dict[str, str]:
        return {"deep_gemm": str(getattr(importlib.import_module("deep_gemm"), "__version__", "unknown"))}

    def calls(self, case: Case) -> Sequence[Call]:
        if case.op not in _NAMES:
            return []
        operation = operation_of(case.op, self.pdl)
        (a, sa), out = case.lhs, case.poisoned_out()
        # Scales in another layout it would rearrange by a kernel more.
        lhs = a, in_layout(sa, M_MAJOR)

        def run() -> Tensor:
            operation(lhs, case.rhs, out, *case.arguments)
            return out

        return [Call(self.label, run, judge_within(case.error, PROMOTED_LIMIT), scale_layout=M_MAJOR)]


def operation_of(op: str, pdl: bool = False) -> Callable[..., None]:
    """Its operation, by whichever name it has it, launched dependently or not, whatever the last one was.

    Raises:
        NotImplementedError: it has none.
    """
    module = importlib.import_module("deep_gemm")
    for name in _NAMES[op]:
        if hasattr(module, name):
            return _launched(getattr(module, name), getattr(module, "set_pdl", None), pdl)
    raise NotImplementedError(f"it has none of {', '.join(_NAMES[op])}")


def _launched(
    operation: Callable[..., object], set_pdl: Callable[[bool], object] | None, pdl: bool
) -> Callable[..., None]:
    def run(*given: Any, **named: Any) -> None:
        if set_pdl is not None:
            set_pdl(pdl)
        operation(*given, **named)

    return run
