"""DeepGEMM's names, argument orders and meanings, by cute_gemm: its FP8 products.

    from cute_gemm.compat import deep_gemm

    deep_gemm.fp8_gemm_nt((a, sa), (b, sb), d)

The distribution in `drop_in/` makes it importable as `deep_gemm`. docs/from_deepgemm.md says what differs.

    products.py   FP8 products, dense and of groups      process.py    what setters say, for the whole process
    gradients.py  those by scales of rows of both        elsewhere.py  a real DeepGEMM, for other GPUs
    k_grouped.py  those of groups along K                missing.py    names without a counterpart yet
    cublaslt.py   products by cuBLASLt, through torch    recipes.py    what scales are for
    first_generation.py                                  names of early 2025
    utils/, testing/, legacy.py                          modules that it has

Products write to `d` and return nothing. Like DeepGEMM's they know nothing of gradients: a `d` that is
computed of parameters asks for none, and none is refused. What an argument may not be is said by a TypeError
or a ValueError, as cute_gemm says it.
"""

from . import legacy, missing, testing, utils
from .cublaslt import cublaslt_gemm_nn, cublaslt_gemm_nt, cublaslt_gemm_tn, cublaslt_gemm_tt
from .first_generation import (
    gemm_fp8_fp8_bf16_nt,
    m_grouped_gemm_fp8_fp8_bf16_nt_contiguous,
    m_grouped_gemm_fp8_fp8_bf16_nt_masked,
)
from .k_grouped import k_grouped_fp8_gemm_nt_contiguous, k_grouped_fp8_gemm_tn_contiguous
from .process import (
    get_batch_invariant,
    get_compile_mode,
    get_num_sms,
    get_pdl,
    get_tc_util,
    set_batch_invariant,
    set_block_size_multiple_of,
    set_compile_mode,
    set_ignore_compile_dims,
    set_num_sms,
    set_pdl,
    set_tc_util,
    use_deterministic_algorithms,
)
from .products import (
    fp8_gemm_nn,
    fp8_gemm_nt,
    fp8_gemm_tn,
    fp8_gemm_tt,
    m_grouped_fp8_gemm_nn_contiguous,
    m_grouped_fp8_gemm_nt_contiguous,
    m_grouped_fp8_gemm_nt_masked,
)
from .testing import calc_diff
from .utils import (
    align,
    cast_back_from_fp4,
    ceil_div,
    ceil_to_ue8m0,
    get_k_alignment_for_contiguous_layout,
    get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor,
    get_m_alignment_for_contiguous_layout,
    get_mk_alignment_for_contiguous_layout,
    get_mn_major_tma_aligned_packed_ue8m0_tensor,
    get_mn_major_tma_aligned_tensor,
    get_theoretical_mk_alignment_for_contiguous_layout,
    get_tma_aligned_size,
    init_dist,
    layout,
    math,
    pack_ue8m0_to_int,
    per_block_cast_to_fp8,
    per_channel_cast_to_fp8,
    per_custom_dims_cast_to_fp8,
    per_token_cast_to_fp4,
    per_token_cast_to_fp8,
    set_mk_alignment_for_contiguous_layout,
    transpose_packed_fp4,
    uneven_all_gather,
    unpack_ue8m0_from_int,
)
from .utils.layout import transform_sf_into_required_layout

__version__ = "2.6.1+cute.gemm"
"""The version of DeepGEMM whose surface this is."""

# Operands that are FP4 are for Blackwell: of two e4m3 ones it is the same function.
fp8_fp4_gemm_nt = fp8_gemm_nt
fp8_fp4_gemm_nn = fp8_gemm_nn
fp8_fp4_gemm_tn = fp8_gemm_tn
fp8_fp4_gemm_tt = fp8_gemm_tt
m_grouped_fp8_fp4_gemm_nt_contiguous = m_grouped_fp8_gemm_nt_contiguous
m_grouped_fp8_fp4_gemm_nn_contiguous = m_grouped_fp8_gemm_nn_contiguous
m_grouped_fp8_fp4_gemm_nt_masked = m_grouped_fp8_gemm_nt_masked
fp8_m_grouped_gemm_nt_masked = m_grouped_fp8_gemm_nt_masked

# As it was called in early 2025.
get_col_major_tma_aligned_tensor = get_mn_major_tma_aligned_tensor

__all__ = [
    "__version__",
    "align",
    "calc_diff",
    "cast_back_from_fp4",
    "ceil_div",
    "ceil_to_ue8m0",
    "cublaslt_gemm_nn",
    "cublaslt_gemm_nt",
    "cublaslt_gemm_tn",
    "cublaslt_gemm_tt",
    "fp8_fp4_gemm_nn",
    "fp8_fp4_gemm_nt",
    "fp8_fp4_gemm_tn",
    "fp8_fp4_gemm_tt",
    "fp8_gemm_nn",
    "fp8_gemm_nt",
    "fp8_gemm_tn",
    "fp8_gemm_tt",
    "fp8_m_grouped_gemm_nt_masked",
    "gemm_fp8_fp8_bf16_nt",
    "get_batch_invariant",
    "get_col_major_tma_aligned_tensor",
    "get_compile_mode",
    "get_k_alignment_for_contiguous_layout",
    "get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor",
    "get_m_alignment_for_contiguous_layout",
    "get_mk_alignment_for_contiguous_layout",
    "get_mn_major_tma_aligned_packed_ue8m0_tensor",
    "get_mn_major_tma_aligned_tensor",
    "get_num_sms",
    "get_pdl",
    "get_tc_util",
    "get_theoretical_mk_alignment_for_contiguous_layout",
    "get_tma_aligned_size",
    "init_dist",
    "k_grouped_fp8_gemm_nt_contiguous",
    "k_grouped_fp8_gemm_tn_contiguous",
    "layout",
    "legacy",
    "m_grouped_fp8_fp4_gemm_nn_contiguous",
    "m_grouped_fp8_fp4_gemm_nt_contiguous",
    "m_grouped_fp8_fp4_gemm_nt_masked",
    "m_grouped_fp8_gemm_nn_contiguous",
    "m_grouped_fp8_gemm_nt_contiguous",
    "m_grouped_fp8_gemm_nt_masked",
    "m_grouped_gemm_fp8_fp8_bf16_nt_contiguous",
    "m_grouped_gemm_fp8_fp8_bf16_nt_masked",
    "math",
    "pack_ue8m0_to_int",
    "per_block_cast_to_fp8",
    "per_channel_cast_to_fp8",
    "per_custom_dims_cast_to_fp8",
    "per_token_cast_to_fp4",
    "per_token_cast_to_fp8",
    "set_batch_invariant",
    "set_block_size_multiple_of",
    "set_compile_mode",
    "set_ignore_compile_dims",
    "set_mk_alignment_for_contiguous_layout",
    "set_num_sms",
    "set_pdl",
    "set_tc_util",
    "testing",
    "transform_sf_into_required_layout",
    "transpose_packed_fp4",
    "uneven_all_gather",
    "unpack_ue8m0_from_int",
    "use_deterministic_algorithms",
    "utils",
]

# They are there for who asks, and refuse their calls.
globals().update(missing.NAMES)

MODULES = (
    "legacy",
    "testing",
    "testing.bench",
    "testing.numeric",
    "testing.utils",
    "utils",
    "utils.dist",
    "utils.layout",
    "utils.math",
)
"""Those that code imports by name, for `drop_in/`."""
