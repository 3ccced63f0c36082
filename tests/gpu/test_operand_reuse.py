"""Kernels whose FFMAs keep scales for each other give the bits of those that do not."""

import pytest
import torch
from tensors import scales_for

from cute_gemm.kernels.gemm_fp8_1d2d import Fp8Gemm1D2D
from cute_gemm.runtime import builder, launch, lookup, operand_reuse
from cute_gemm.testing import make_inputs, poisoned

NAMES = [
    "256x128_c1x2_s4_dyn_l2p256_bf16_tma-scales",
    "128x192_c1x1_s4_l2p256_bf16",
    "128x64_c1x1_s8_l2p256_bf16",
    "64x64_c1x1_k2_s8_t2_pf_bf16",
]


class AsCompiled(Fp8Gemm1D2D):
    """The same kernel under another name, so that it is compiled apart."""


@pytest.mark.parametrize("name", NAMES)
def test_bits_are_those_of_the_compiler_s_own_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = lookup.find_config(name)
    (a, sa), rhs = make_inputs(600, 584, 2064, device="cuda")
    lhs = a, scales_for(config, sa)
    out, check = poisoned(600, 584, torch.bfloat16, "cuda")
    launch(config, lhs, rhs, out=out)
    check()
    monkeypatch.setattr(operand_reuse, "with_longer_runs", lambda image: image)
    plain = builder.build(config, kernel=AsCompiled)
    assert torch.equal(launch(plain, lhs, rhs), out)
