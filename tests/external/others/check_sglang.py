"""SGLang's wrapper of DeepGEMM, its block-scaled linear, its runner of experts and its warm-ups, unmodified.

    git clone https://github.com/sgl-project/sglang
    python tests/external/run_others.py --sglang sglang

What is stubbed: all of SGLang but the modules in `REAL`; and its kernels that are not in Triton, those that
quantise activations, with and without SwiGLU. cute_gemm's quantiser and torch are in their place.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from checks import Checks, begin

PACKAGE = Path("python", "sglang")
WRAPPER = "srt.layers.deep_gemm_wrapper"
RUNNER = "srt.layers.moe.moe_runner.deep_gemm"
REAL = {
    "srt.environ",
    WRAPPER,
    f"{WRAPPER}.compile_utils",
    f"{WRAPPER}.configurer",
    f"{WRAPPER}.entrypoint",
    RUNNER,
    "srt.layers.quantization.fp8_utils",
    "kernels.ops.gemm.fp8_kernel",
    "kernels.ops.moe.ep_moe_kernels",
    "kernels.ops.quantization.fp8_kernel",
}


def main() -> int:
    checkout = begin(__doc__, PACKAGE / "srt" / "layers" / "deep_gemm_wrapper" / "entrypoint.py")
    os.environ["SGLANG_JIT_DEEPGEMM_PRECOMPILE"] = "0"
    load(checkout)
    checks = Checks()
    checks("wrapper: settings", settings)
    checks("wrapper: layouts of scales", layouts)
    checks("linear: w8a8_block_fp8_matmul_deepgemm", linear)
    checks("DeepGemmRunnerCore, contiguous", contiguous)
    checks("DeepGemmRunnerCore, masked", masked)
    for kind in ("GEMM_NT_F8F8BF16", "GROUPED_GEMM_NT_F8F8BF16_CONTIG", "GROUPED_GEMM_NT_F8F8BF16_MASKED"):
        checks(f"warm-up: {kind}", partial(warm_up, kind))
    for kind in ("GEMM_NT_BF16BF16F32", "GROUPED_GEMM_NT_BF16_CONTIG", "GROUPED_GEMM_NT_BF16_MASKED"):
        checks(f"warm-up: {kind}", partial(warm_up, kind))
    checks("wrapper: tf32_hc_prenorm_gemm", hyper_connections)
    checks("wrapper: masked, with what overlaps", overlapped)
    return checks.end()


def load(checkout: Path) -> None:
    """Has their modules found, with stubs in place of their neighbours."""
    import contextlib

    from neighbours import Neighbours, stub_progress

    def ceil_div(x: int, y: int) -> int:
        return -(-x // y)

    utils = {
        "ceil_align": lambda x, y: ceil_div(x, y) * y,
        "ceil_div": ceil_div,
        "dispose_tensor": lambda x: None,
        "get_available_gpu_memory": lambda **named: 64,
        "get_bool_env_var": lambda name, default="false": False,
        "get_cuda_version": lambda: (13, 0),
        "get_device_capability": lambda: (9, 0),
        "get_device_sm": lambda: 90,
        "is_cuda": lambda: True,
        **{f"is_{name}": lambda: False for name in ("cpu", "hip", "musa", "npu")},
        **{f"is_{name}_supported": lambda: False for name in ("sm100", "blackwell")},
    }

    def register_custom_op(*functions: Any, **named: Any) -> Any:
        return functions[0] if functions else lambda function: function

    backend = SimpleNamespace(is_megamoe=lambda: False)
    given = {
        "srt.utils": utils,
        "srt.utils.custom_op": {"register_custom_op": register_custom_op},
        "srt.layers.moe.utils": {"get_moe_a2a_backend": lambda: backend},
        "srt.layers.moe.moe_runner.base": {
            name: lambda *args: lambda function: function
            for name in ("register_pre_permute", "register_post_permute")
        },
        "srt.distributed.device_communicators.pynccl_allocator": {
            "use_symmetric_memory": lambda group, disabled: contextlib.nullcontext()
        },
        "srt.layers.dp_attention": {"is_allocation_symmetric": lambda: False},
        "kernels.ops.activation.activation": {"silu_and_mul": silu_and_mul},
        "srt.runtime_context": {
            "get_platform": lambda: SimpleNamespace(
                is_sm90=True, is_sm100=False, is_sm120=False, is_blackwell=False
            ),
            "get_schedule": lambda: SimpleNamespace(chunked_prefill_size=8192),
        },
    }
    stub_progress()
    Neighbours(checkout / PACKAGE, REAL, given)
    for package in ("sgl_kernel", "flashinfer"):
        Neighbours(Path(package), set(), {})
    of_sglang("kernels.ops.quantization.fp8_kernel").sglang_per_token_group_quant_fp8 = quantise
    of_sglang(RUNNER)._varlen_deep_gemm_silu_mul_quant = masked_swiglu


def of_sglang(name: str) -> Any:
    return importlib.import_module(f"sglang.{name}")


def silu_and_mul(x: Any, out: Any) -> None:
    import products

    out.copy_(products.silu_and_mul(x))


def quantise(x: Any, group_size: int, scale_ue8m0: bool, **layout: Any) -> Any:
    from products import quantised_rows

    assert not scale_ue8m0
    return quantised_rows(x)


def masked_swiglu(gate_up: Any, masked_m: Any, **named: Any) -> Any:
    from products import quantised_rows, silu_and_mul

    return quantised_rows(silu_and_mul(gate_up))


def settings() -> None:
    import deep_gemm

    wrapper = of_sglang(WRAPPER)
    assert wrapper.ENABLE_JIT_DEEPGEMM
    assert wrapper.DEEPGEMM_NEED_TMA_ALIGNED_SCALES
    assert not wrapper.DEEPGEMM_SCALE_UE8M0
    server = SimpleNamespace(base_gpu_id=0)
    count = len(inspect.signature(wrapper.update_deep_gemm_config).parameters)
    wrapper.update_deep_gemm_config(*(0, server)[:count])
    assert deep_gemm.get_pdl()
    before = deep_gemm.get_num_sms()
    with wrapper.configure_deep_gemm_num_sms(20):
        assert deep_gemm.get_num_sms() == 20
    assert deep_gemm.get_num_sms() == before


def layouts() -> None:
    import torch

    fp8 = of_sglang("srt.layers.quantization.fp8_utils")
    for shape in ((3, 8), (3, 4), (2, 3, 6)):
        s = torch.randint(-9, 9, shape, device="cuda").float().exp2()
        made, wanted = (fp8.transform_scale_ue8m0(s, 300, use_torch_impl=torchs) for torchs in (False, True))
        assert torch.equal(made, wanted)
        assert made.stride() == wanted.stride()
    aligned = of_sglang(WRAPPER).get_mn_major_tma_aligned_tensor
    s = torch.randn(4, 130, 3, device="cuda")
    assert torch.equal(aligned(s), s)
    assert aligned(s).stride() == (396, 1, 132)
    assert aligned(aligned(s)).stride() == (396, 1, 132)


def linear_of_sglang() -> Any:
    """It has moved between releases."""
    name = "w8a8_block_fp8_matmul_deepgemm"
    modules = (of_sglang(f"kernels.ops.{kind}.fp8_kernel") for kind in ("quantization", "gemm"))
    return next(vars(module)[name] for module in modules if name in vars(module))


def linear() -> str:
    import torch
    from products import ROUNDED, compare, exact_blocks, exact_rows, quantised_rows, weights

    multiply = linear_of_sglang()
    w, s = weights(576, 512)
    q, scales = quantised_rows(torch.randn(77, 512, device="cuda"))
    out = multiply(q, w, scales, s, [128, 128], torch.bfloat16)
    return compare(out, exact_rows(q, scales) @ exact_blocks(w, s).T, ROUNDED)


def runner() -> Any:
    config = SimpleNamespace(
        activation="silu",
        top_k=2,
        gemm1_alpha=None,
        gemm1_clamp_limit=None,
        silu_mul_keep_fp32=False,
        swiglu_limit=None,
    )
    core = SimpleNamespace(config=config, swiglu_limit=None, use_swizzle=False)
    theirs = of_sglang(RUNNER).DeepGemmRunnerCore
    for name in ("_run_contiguous_gemm", "_run_masked_gemm"):
        setattr(core, name, partial(getattr(theirs, name), core))
    return core


def experts() -> tuple[Any, Any]:
    """What a runner takes of four experts, and the layer of their exact weights."""
    from products import exact_blocks, experts_product, weights

    (up, up_scales), (down, down_scales) = weights(4, 512, 512), weights(4, 512, 256)
    info = of_sglang(RUNNER).DeepGemmMoeQuantInfo(
        w13_weight=up,
        w13_scale=up_scales,
        w2_weight=down,
        w2_scale=down_scales,
        use_fp8=True,
        block_shape=[128, 128],
    )
    both = exact_blocks(up, up_scales), exact_blocks(down, down_scales)
    return info, lambda x, ids, shares: experts_product(x, ids, shares, *both)


def state(rows: int) -> dict[str, Any]:
    import torch

    return {
        "all_tokens": rows,
        "hidden_states_device": torch.empty(0, device="cuda").device,
        "hidden_states_dtype": torch.bfloat16,
        "hidden_states_shape": (rows, 512),
    }


def contiguous() -> str:
    """Three groups of four, each in whole blocks, and a block of no group behind them."""
    import torch
    from products import REQUANTISED, compare, exact_rows, quantised_rows

    info, layer = experts()
    q, scales = quantised_rows(torch.randn(640, 512, device="cuda"))
    ids = torch.full((640,), -1, device="cuda", dtype=torch.int32)
    for expert, begin_, end in ((0, 0, 100), (1, 128, 384), (3, 384, 512)):
        ids[begin_:end] = expert
    given = of_sglang(RUNNER).DeepGemmRunnerInput(q, scales, use_masked_gemm=False, m_indices=ids)
    out = runner()._run_contiguous_gemm(given, info, state(640))
    is_valid = ids >= 0
    owners = ids[is_valid, None]
    wanted = layer(exact_rows(q, scales)[is_valid], owners, torch.ones(owners.shape, device="cuda"))
    return compare(out[is_valid], wanted, REQUANTISED)


def masked() -> str:
    import torch
    from products import REQUANTISED, compare, exact_rows, quantised_rows

    info, layer = experts()
    counts = torch.tensor([5, 0, 64, 33], device="cuda", dtype=torch.int32)
    q, scales = quantised_rows(torch.randn(4, 64, 512, device="cuda"))
    given = of_sglang(RUNNER).DeepGemmRunnerInput(
        q, scales, use_masked_gemm=True, masked_m=counts, expected_m=26
    )
    out = runner()._run_masked_gemm(given, info, state(256))
    is_valid = torch.arange(64, device="cuda") < counts[:, None]
    owners = torch.where(is_valid)[0][:, None]
    wanted = layer(exact_rows(q, scales)[is_valid], owners, torch.ones(owners.shape, device="cuda"))
    return compare(out[is_valid], wanted, REQUANTISED)


def warm_up(kind: str) -> None:
    compile_utils = of_sglang(f"{WRAPPER}.compile_utils")
    compile_utils._compile_deep_gemm_one_type_all(
        getattr(compile_utils.DeepGemmKernelType, kind), n=512, k=256, num_groups=4, m_list=[1, 7, 128, 256]
    )


def hyper_connections() -> None:
    import torch

    x = torch.zeros(4, 256, device="cuda", dtype=torch.bfloat16)
    of_sglang(WRAPPER).tf32_hc_prenorm_gemm(x, x, x, x, None)


def overlapped() -> None:
    """Of their fork of DeepGEMM: a kernel that says on the device what is ready."""
    import torch
    from products import quantised_rows, weights

    a, b = quantised_rows(torch.randn(4, 64, 512, device="cuda")), weights(4, 512, 512)
    out = torch.empty(4, 64, 512, device="cuda", dtype=torch.bfloat16)
    counts = torch.ones(4, device="cuda", dtype=torch.int32)
    overlap = SimpleNamespace(num_sms=100, signal=torch.zeros(64, device="cuda", dtype=torch.int32))
    of_sglang(WRAPPER).grouped_gemm_nt_f8f8bf16_masked(a, b, out, counts, 1, overlap)


if __name__ == "__main__":
    sys.exit(main())
