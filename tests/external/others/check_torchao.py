"""torchao's DeepGEMM backend for layers of experts, unmodified, and its tests of it.

    git clone https://github.com/pytorch/ao
    python tests/external/run_others.py --torchao ao

Nothing of torchao is stubbed; Triton is needed. Its tests of its own quantisers are left out. Those of a
whole layer compare both gradients with an emulation.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from checks import Checks, begin

TESTS = Path("test", "prototype", "moe_training", "test_fp8_blockwise_deepgemm_backend.py")
BLOCK = 128


def main() -> int:
    checkout = begin(__doc__, TESTS)
    import posing
    import pytest

    posing.round_to_nearest()
    sys.path.insert(0, str(checkout))
    checks = Checks()
    checks("forward, padded by them", forward)
    checks("backend: forward", partial(product, "quantize_forward_rhs"))
    checks("backend: gradient of the input", partial(product, "quantize_dgrad_rhs"))
    options = ["-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", "-k", "not quant"]
    pytest.main([*options, "--rootdir", str(checkout), str(checkout / TESTS)], [checks.of_pytest()])
    return checks.end()


def forward() -> str:
    """Of groups of any size, beside their emulation, which dequantises the same operands to bf16."""
    import torch
    from products import compare
    from torchao.prototype.moe_training.blockwise_fp8 import grouped_mm
    from torchao.quantization.quantize_.common import KernelPreference

    ends = torch.tensor([129, 129, 300], device="cuda", dtype=torch.int32)
    x, w = torch.randn(300, 256, device="cuda").bfloat16(), torch.randn(3, 128, 256, device="cuda").bfloat16()
    out, emulated = (
        grouped_mm._to_fp8_blockwise_then_scaled_grouped_mm(x, w.mT, ends, kernel_preference=preference)
        for preference in (KernelPreference.DEEPGEMM, KernelPreference.EMULATED)
    )
    return compare(out, emulated.double(), 3e-5)


def product(quantiser: str) -> str:
    """What the backend computes of weights `[E, N, K]` that it quantises, with rows past the last group."""
    import torch
    from products import ROUNDED, compare, exact_blocks, exact_rows, quantised_rows
    from torchao.prototype.blockwise_fp8_training import deepgemm_metadata, kernels
    from torchao.prototype.moe_training.blockwise_fp8 import grouped_mm_backend as theirs

    ends = torch.tensor([256, 256, 384], device="cuda", dtype=torch.int32)
    plan = deepgemm_metadata.build_deepgemm_grouped_offset_plan(ends, num_rows=512)
    backend = theirs._DeepGemmGroupedMMBackend(offset_plan=plan)
    weights = torch.randn(3, 128, 256, device="cuda").bfloat16()
    w, w_scales = getattr(backend, quantiser)(weights.mT, BLOCK, torch.float8_e4m3fn)
    x, x_scales = quantised_rows(torch.randn(512, w.shape[2], device="cuda"))
    kinds = (kernels.BLOCKWISE_1X128_SCALING_TYPE, kernels.BLOCKWISE_128X128_SCALING_TYPE)
    of_rows, of_blocks = map(kernels._scaling_type_value, kinds)
    out = backend.grouped_mm(x, w, x_scales, of_rows, w_scales, of_blocks, ends, torch.bfloat16, BLOCK)
    exact_x, exact_w = exact_rows(x, x_scales), exact_blocks(w, w_scales)
    wanted = torch.cat([exact_x[:256] @ exact_w[0].T, exact_x[256:384] @ exact_w[2].T])
    return compare(out[:384], wanted, ROUNDED)


if __name__ == "__main__":
    sys.exit(main())
