"""The public operations: what each promises, and the one road that all of them take."""

from . import library as library

# Not by the first call on the CPU: a process that is forked meanwhile waits for ever for what a thread of its
# parent was importing.
from . import traced as traced
from .dense import fp8_gemm_nt
from .grouped import (
    contiguous_alignment,
    m_grouped_fp8_gemm_nt_contiguous,
    m_grouped_fp8_gemm_nt_masked,
    m_grouped_fp8_gemm_nt_offsets,
)

__all__ = [
    "contiguous_alignment",
    "fp8_gemm_nt",
    "m_grouped_fp8_gemm_nt_contiguous",
    "m_grouped_fp8_gemm_nt_masked",
    "m_grouped_fp8_gemm_nt_offsets",
]
