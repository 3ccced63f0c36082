"""DeepGEMM's kernels for A100, in Triton: products of bf16, of which there are none yet."""

from .missing import missing as _missing

_NAMES = (
    "a_fused_k_grouped_bf16_gemm_tn_contiguous_tl",
    "a_fused_m_grouped_bf16_gemm_nn_contiguous_tl",
    "a_fused_m_grouped_bf16_gemm_nt_contiguous_tl",
    "b_fused_k_grouped_bf16_gemm_tn_contiguous_tl",
    "m_grouped_bf16_gemm_nn_contiguous_tl",
    "m_grouped_bf16_gemm_nt_contiguous_tl",
)

globals().update({name: _missing(f"legacy.{name}", "products of bf16") for name in _NAMES})
