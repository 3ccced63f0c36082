"""The public operations: what each promises, and the one road that all of them take."""

# None by the first call on the CPU: a process that is forked meanwhile waits for ever for what a thread
# of its parent was importing.
from . import epilogued_library as epilogued_library
from . import epilogued_traced as epilogued_traced
from . import library as library
from . import traced as traced
from .dense import fp8_gemm_nt
from .grouped import (
    contiguous_alignment,
    m_grouped_fp8_gemm_nt_contiguous,
    m_grouped_fp8_gemm_nt_masked,
    m_grouped_fp8_gemm_nt_offsets,
)
from .k_grouped import k_grouped_fp8_gemm_nt

__all__ = [
    "contiguous_alignment",
    "fp8_gemm_nt",
    "k_grouped_fp8_gemm_nt",
    "m_grouped_fp8_gemm_nt_contiguous",
    "m_grouped_fp8_gemm_nt_masked",
    "m_grouped_fp8_gemm_nt_offsets",
]
