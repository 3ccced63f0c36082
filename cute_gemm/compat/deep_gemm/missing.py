"""DeepGEMM's other names: they are there, as code asks for them when it is imported, and say what is missing.

On another GPU than Hopper they are handed over as all are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .elsewhere import hands_over

_FAMILIES = {
    "products of bf16": (
        "bf16_gemm_nt",
        "bf16_gemm_nn",
        "bf16_gemm_tn",
        "bf16_gemm_tt",
        "m_grouped_bf16_gemm_nt_contiguous",
        "m_grouped_bf16_gemm_nn_contiguous",
        "m_grouped_bf16_gemm_nt_masked",
        "bf16_m_grouped_gemm_nt_masked",
        "k_grouped_bf16_gemm_tn_contiguous",
    ),
    "products of FP4": (
        "fp4_gemm_nt",
        "k_grouped_fp4_gemm_nt_contiguous",
        "cublaslt_nvfp4_gemm_nt",
    ),
    "einsum": ("einsum", "fp8_einsum"),
    "products of a symmetric result or operand": ("batched_syrk", "batched_symm"),
    "products that leave columns out": ("fp8_gemm_nt_skip_head_mid",),
    "logits of an indexer": (
        "fp8_mqa_logits",
        "fp8_fp4_mqa_logits",
        "fp8_paged_mqa_logits",
        "fp8_fp4_paged_mqa_logits",
        "get_paged_mqa_logits_metadata",
    ),
    "hyper-connections": ("tf32_hc_prenorm_gemm",),
    "layers of experts over several GPUs in one kernel": (
        "get_symm_buffer_for_mega_moe",
        "transform_weights_for_mega_moe",
        "fp8_fp4_mega_moe",
        "bf16_mega_moe",
        "fp8_mega_moe",
        "transform_weights_for_mega_moe_sm90",
        "get_symm_buffer_for_sm90_mega_moe",
        "mega_moe_pre_dispatch_sm90",
    ),
}


def missing(name: str, what: str) -> Callable[..., Any]:
    """A function of that name.

    Args:
        name: DeepGEMM's, with the module in it, if any: `legacy.function`.
        what: the family that is missing.
    """

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"deep_gemm.{name}: cute_gemm has no {what} yet")

    refuse.__name__, refuse.__qualname__ = name.split(".")[-1], name
    refuse.__doc__ = f"Raises a NotImplementedError: there is no {what} yet."
    return hands_over(refuse)


class SymmBuffer:
    """Memory that several GPUs share, for layers of experts in one kernel: there is none yet."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return missing("SymmBuffer", "memory that several GPUs share")(*args, **kwargs)


NAMES: dict[str, Any] = {name: missing(name, what) for what, names in _FAMILIES.items() for name in names} | {
    "SymmBuffer": SymmBuffer
}
"""What is missing at the top of the module, by name."""
