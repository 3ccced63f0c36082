"""FP8 GEMM with fine-grained scaling for Hopper GPUs, written in Python with the CuTe DSL.

The DSL takes seconds to import, so this module does not: the first call on a GPU does. Nor does it import
`nn`, which has no op of torch's dispatcher: naming it does. All that calls of the operations here need on the
CPU is imported with them (`ops/__init__.py` says why).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# First: torch, which the others import, takes seconds.
from . import interrupts as interrupts  # isort: split

from . import epilogue as epilogue
from . import moe as moe
from .ops import (
    contiguous_alignment,
    fp8_gemm_nt,
    k_grouped_fp8_gemm_nt,
    m_grouped_fp8_gemm_nt_contiguous,
    m_grouped_fp8_gemm_nt_masked,
    m_grouped_fp8_gemm_nt_offsets,
)
from .packing import load_pack
from .quantize import (
    dequantize_1x128,
    dequantize_128x128,
    interleave_gate_up,
    m_major,
    quantize_1x128,
    quantize_128x128,
    quantize_both_ways,
    quantize_k_grouped,
    rms_norm_quantize_1x128,
    split_gate_up,
    swiglu_quantize_1x128,
)
from .settings import config
from .warming import warmup

if TYPE_CHECKING:
    from . import nn as nn

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "config",
    "contiguous_alignment",
    "dequantize_1x128",
    "dequantize_128x128",
    "epilogue",
    "fp8_gemm_nt",
    "interleave_gate_up",
    "k_grouped_fp8_gemm_nt",
    "load_pack",
    "m_grouped_fp8_gemm_nt_contiguous",
    "m_grouped_fp8_gemm_nt_masked",
    "m_grouped_fp8_gemm_nt_offsets",
    "m_major",
    "moe",
    "nn",
    "quantize_1x128",
    "quantize_128x128",
    "quantize_both_ways",
    "quantize_k_grouped",
    "rms_norm_quantize_1x128",
    "split_gate_up",
    "swiglu_quantize_1x128",
    "warmup",
]

_LAZY = ("nn",)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f".{name}", __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
