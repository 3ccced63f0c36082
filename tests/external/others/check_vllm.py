"""vLLM's wrapper of DeepGEMM, its block-scaled linear, both layers of experts and its warm-ups, unmodified.

    git clone https://github.com/vllm-project/vllm
    python tests/external/run_others.py --vllm vllm

What is stubbed: all of vLLM but the modules in `REAL`. The platform says that it is a Hopper GPU without
vLLM's extension, so that activations are quantised by vLLM's kernels in Triton. Settings are vLLM's defaults:
scales are powers of two. On the CPU its fused SwiGLU is stubbed, too: it multiplies in bf16, which Triton's
interpreter cannot.
"""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import posing
from checks import Checks, begin

PACKAGE = Path("vllm")
LAYERS = "model_executor.layers"
REAL = {
    "utils.deep_gemm",
    "utils.math_utils",
    "model_executor.kernels.linear.scaled_mm.deep_gemm",
    f"{LAYERS}.fused_moe.deep_gemm_utils",
    f"{LAYERS}.fused_moe.experts.batched_deep_gemm_moe",
    f"{LAYERS}.fused_moe.experts.deep_gemm_moe",
    f"{LAYERS}.fused_moe.utils",
    f"{LAYERS}.quantization.utils.fp8_utils",
    "model_executor.warmup.deep_gemm_warmup",
}
SMS = 132


def main() -> int:
    checkout = begin(__doc__, PACKAGE / "utils" / "deep_gemm.py")
    load(checkout)
    checks = Checks()
    checks("wrapper: settings", settings)
    checks("wrapper: layouts of scales", layouts)
    checks("wrapper: cublaslt_gemm_nt", cublaslt)
    checks("linear: fp8_gemm_nt_op", linear)
    checks("DeepGemmExperts", partial(experts, 8))
    checks("DeepGemmExperts, of half the experts", partial(experts, 4))
    checks("BatchedDeepGemmExperts", batched_experts)
    checks("deep_gemm_warmup", warm_up)
    checks("wrapper: fp8_fp4_mqa_logits", partial(refused, "fp8_fp4_mqa_logits", 6))
    checks("wrapper: fp8_fp4_paged_mqa_logits", partial(refused, "fp8_fp4_paged_mqa_logits", 8))
    checks("wrapper: tf32_hc_prenorm_gemm", partial(refused, "tf32_hc_prenorm_gemm", 5))
    checks("wrapper: fp8_einsum", partial(refused, "fp8_einsum", 4))
    return checks.end()


def swiglu(input: Any, output: Any, use_ue8m0: bool, **named: Any) -> Any:
    """What their fused kernel computes, of a `clamp_limit` of None."""
    from products import quantised_rows, silu_and_mul

    q, scales = quantised_rows(silu_and_mul(input), powers_of_two=use_ue8m0)
    return output.copy_(q), scales


def load(checkout: Path) -> None:
    """Has their modules found, with stubs in place of their neighbours."""
    import torch
    import triton
    from neighbours import Neighbours, stub_progress

    platform = SimpleNamespace(
        support_deep_gemm=lambda: True,
        is_arch_support_pdl=lambda: True,
        is_device_capability_family=lambda family: family == 90,
        has_device_capability=lambda capability: True,
        is_cuda=lambda: False,
        is_cuda_alike=lambda: False,
        is_xpu=lambda: False,
        is_fp8_fnuz=lambda: False,
        fp8_dtype=lambda: torch.float8_e4m3fn,
        simple_compile_backend="eager",
    )
    envs = {
        "VLLM_USE_DEEP_GEMM": True,
        "VLLM_USE_DEEP_GEMM_E8M0": True,
        "VLLM_CACHE_ROOT": "never-written",
        "VLLM_DEEP_GEMM_WARMUP": "relax",
    }
    limits = torch.finfo(torch.float8_e4m3fn)
    group = SimpleNamespace(world_size=1)
    given = {
        "envs": envs,
        "platforms": {"current_platform": platform},
        "triton_utils": {"triton": triton, "tl": triton.language},
        "utils.import_utils": {"has_deep_gemm": lambda: True},
        "utils.platform_utils": {"num_compute_units": lambda index: SMS},
        "distributed.parallel_state": {"get_dp_group": lambda: group, "is_global_first_rank": lambda: False},
        "forward_context": {"is_forward_context_available": lambda: False},
        f"{LAYERS}.quantization.utils.quant_utils": {
            "get_fp8_min_max": lambda: (limits.min, limits.max),
        },
        # What it wraps does nothing but measure.
        "tracing": {"instrument": lambda **named: lambda function: function},
    }
    stub_progress()
    Neighbours(checkout / PACKAGE, REAL, given)


def of_vllm(name: str) -> Any:
    return importlib.import_module(f"vllm.{name}")


def settings() -> None:
    import deep_gemm

    wrapper = of_vllm("utils.deep_gemm")
    assert wrapper.is_deep_gemm_supported()
    assert wrapper.is_deep_gemm_e8m0_used()
    assert wrapper._import_deep_gemm() is deep_gemm
    assert deep_gemm.get_pdl()
    before = wrapper.get_num_sms()
    wrapper.set_num_sms(before - 2)
    assert wrapper.get_num_sms() == before - 2
    wrapper.set_num_sms(before)
    assert wrapper.get_mk_alignment_for_contiguous_layout() == [128, 128]
    assert wrapper.get_theoretical_mk_alignment_for_contiguous_layout(4096, 8) == 128
    with wrapper.mk_alignment_scope(128):
        pass
    assert wrapper.DeepGemmQuantScaleFMT.from_oracle() is wrapper.DeepGemmQuantScaleFMT.FLOAT32_CEIL_UE8M0


def layouts() -> None:
    import torch

    wrapper = of_vllm("utils.deep_gemm")
    s = torch.randint(-9, 9, (130, 8), device="cuda").float().exp2()
    aligned = wrapper.get_col_major_tma_aligned_tensor(s)
    assert aligned.stride() == (1, 132)
    assert torch.equal(aligned, s)
    packed = wrapper.pack_ue8m0_to_int(s)
    assert packed.shape == (130, 2)
    assert torch.equal(wrapper.get_mn_major_tma_aligned_packed_ue8m0_tensor(s), packed)
    ks = torch.tensor([512, 512], device="cuda", dtype=torch.int32)
    by_groups = wrapper.get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor(
        s.T.contiguous(), ks, [512, 512], 128
    )
    assert torch.equal(by_groups, packed.T)


def cublaslt() -> str:
    import torch
    from products import ROUNDED, compare

    a, b = torch.randn(70, 512, device="cuda").bfloat16(), torch.randn(384, 512, device="cuda").bfloat16()
    out = torch.empty(70, 384, device="cuda", dtype=torch.bfloat16)
    of_vllm("utils.deep_gemm").cublaslt_gemm_nt(a, b, out)
    return compare(out, a.double() @ b.double().T, ROUNDED)


def linear() -> str:
    """As their class does it: weights are quantised again, to scales that are powers of two."""
    import torch
    from products import ROUNDED, compare, exact_blocks, exact_rows, weights

    fp8 = of_vllm(f"{LAYERS}.quantization.utils.fp8_utils")
    layer = of_vllm("model_executor.kernels.linear.scaled_mm.deep_gemm")
    w, s = weights(576, 512)
    w, s = fp8.deepgemm_post_process_fp8_weight_block(w, s, (128, 128), use_e8m0=True)
    x = torch.randn(77, 512, device="cuda", dtype=torch.bfloat16)
    q, scales = fp8.per_token_group_quant_fp8(x, 128, column_major_scales=True, tma_aligned_scales=True)
    assert scales.stride(0) == 1
    out = torch.empty(77, 576, device="cuda", dtype=torch.bfloat16)
    layer._fp8_gemm_nt_op(q, scales, w, s, out, True)
    return compare(out, exact_rows(q, scales) @ exact_blocks(w, s).T, ROUNDED)


def experts(here: int) -> str:
    """Of eight experts the first are here, and others are somewhere else."""
    import torch
    from products import REQUANTISED, compare, exact_blocks, exact_rows, experts_product, routed, weights

    moe = of_vllm(f"{LAYERS}.fused_moe.experts.deep_gemm_moe")
    fp8 = of_vllm(f"{LAYERS}.quantization.utils.fp8_utils")
    x, ids, shares = routed(tokens=70, hidden=512, experts=8, chosen=2)
    (up, up_scales), (down, down_scales) = (
        weights(here, 512, 512, powers_of_two=True),
        weights(here, 512, 256, powers_of_two=True),
    )
    q, scales = fp8.per_token_group_quant_fp8(x, 128)
    module = SimpleNamespace(
        block_shape=[128, 128],
        mxfp8=False,
        w1_scale=up_scales,
        w2_scale=down_scales,
        adjust_N_for_activation=lambda n, activation: n // 2,
        gemm1_clamp_limit=None,
        gemm1_alpha=1.0,
        gemm1_beta=0.0,
    )
    if posing.is_posing():
        moe.silu_mul_per_token_group_quant_fp8_colmajor = swiglu
    module._act_mul_quant = partial(moe.DeepGemmExperts._act_mul_quant, module)
    shapes = partial(moe.DeepGemmExperts.workspace_shapes, module)
    spaces = shapes(70, 512, 512, 2, 8, here, None, moe.MoEActivation.SILU)
    # What they hold when a layer is called is of another layer.
    first, second = (torch.full(shape, torch.nan, device="cuda").bfloat16() for shape in spaces[:2])
    out = torch.full_like(x, torch.nan)
    table = None
    if here < 8:
        table = torch.arange(8, device="cuda", dtype=torch.int32)
        table[here:] = -1
    moe.DeepGemmExperts.apply(
        module,
        out,
        q,
        up,
        down,
        shares,
        ids,
        moe.MoEActivation.SILU,
        8,
        table,
        scales,
        None,
        first,
        second,
        None,
        False,
    )
    both = exact_blocks(up, up_scales), exact_blocks(down, down_scales)
    return compare(out, experts_product(exact_rows(q, scales), ids, shares, *both), REQUANTISED)


def batched_experts() -> str:
    """Rows of each expert in a matrix of its own; their shares are applied elsewhere."""
    import torch
    from products import REQUANTISED, compare, exact_blocks, exact_rows, experts_product, weights

    moe = of_vllm(f"{LAYERS}.fused_moe.experts.batched_deep_gemm_moe")
    fp8 = of_vllm(f"{LAYERS}.quantization.utils.fp8_utils")
    counts = torch.tensor([5, 0, 64, 33], device="cuda", dtype=torch.int32)
    x = torch.randn(4, 64, 512, device="cuda").bfloat16()
    (up, up_scales), (down, down_scales) = (
        weights(4, 512, 512, powers_of_two=True),
        weights(4, 512, 256, powers_of_two=True),
    )
    q, scales = (each.view(4, 64, -1) for each in fp8.per_token_group_quant_fp8(x.view(256, 512), 128))
    module = SimpleNamespace(
        block_shape=[128, 128],
        w1_scale=up_scales,
        w2_scale=down_scales,
        moe_problem_size=lambda *operands: (4, 64, 512, 512, 2),
    )
    module.estimate_expected_m = partial(moe.BatchedDeepGemmExperts.estimate_expected_m, module)
    out = torch.full_like(x, torch.nan)
    ids = torch.zeros(48, 2, device="cuda", dtype=torch.int64)
    space = torch.empty(4 * 64 * 512, device="cuda", dtype=torch.bfloat16)
    meta = SimpleNamespace(expert_num_tokens=counts)
    nothing = torch.empty(0, device="cuda")
    moe.BatchedDeepGemmExperts.apply(
        module,
        out,
        q,
        up,
        down,
        nothing,
        ids,
        moe.MoEActivation.SILU,
        4,
        None,
        scales,
        None,
        space,
        nothing,
        meta,
        False,
    )
    is_valid = torch.arange(64, device="cuda") < counts[:, None]
    owners = torch.where(is_valid)[0][:, None]
    rows = exact_rows(q, scales)[is_valid]
    ones = torch.ones(owners.shape, device="cuda")
    both = exact_blocks(up, up_scales), exact_blocks(down, down_scales)
    return compare(out[is_valid], experts_product(rows, owners, ones, *both), REQUANTISED)


def warm_up() -> str:
    """What it calls a server's products with: any M, scales of zeros, groups of whole blocks."""
    from products import weights

    warmup = of_vllm("model_executor.warmup.deep_gemm_warmup")
    (w, s), (up, up_scales), (down, down_scales) = (
        weights(512, 512),
        weights(4, 512, 512),
        weights(4, 512, 256),
    )
    calls = SimpleNamespace(count=0)
    calls.update = lambda more: setattr(calls, "count", calls.count + more)
    warmup._deepgemm_fp8_gemm_nt_warmup(w, s, 192, calls)
    warmup._deepgemm_grouped_fp8_gemm_nt_contiguous_warmup(up, down, up_scales, down_scales, 2, 24, calls)
    return f"{calls.count} calls"


def refused(name: str, count: int) -> None:
    """What is not there yet, and says so before it looks at what it is given: here nothing."""
    getattr(of_vllm("utils.deep_gemm"), name)(*[None] * count)


if __name__ == "__main__":
    sys.exit(main())
