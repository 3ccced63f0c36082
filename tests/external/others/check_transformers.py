"""transformers' integrations/deepgemm.py, unmodified: its FP8 linear, and its FP8 and bf16 experts.

    git clone https://github.com/huggingface/transformers
    python tests/external/run_others.py --transformers transformers

What is stubbed: `lazy_load_kernel`, which returns the drop-in; an nvcc, which it wants to see though nothing
calls it; and transformers' other modules, as that of experts, whose gate and weights are made here.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from checks import Checks, begin

PACKAGE = Path("src", "transformers")
FILE = PACKAGE / "integrations" / "deepgemm.py"


def main() -> int:
    checkout = begin(__doc__, FILE)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CUDA_HOME"] = folder
        Path(folder, "bin").mkdir()
        Path(folder, "bin", "nvcc").touch()
        Path(folder, "version.json").write_text('{"cuda": {"version": "13.0.0"}}')
        return run(load(checkout))


def load(checkout: Path) -> Any:
    """Their module, which finds the drop-in."""
    import deep_gemm
    from neighbours import Neighbours

    hub = {"lazy_load_kernel": lambda name: deep_gemm, "_MISSING_KERNELS_MESSAGE": ""}
    real = {"integrations.deepgemm", "utils.import_utils"}
    Neighbours(checkout / PACKAGE, real, {"integrations.hub_kernels": hub})
    theirs = importlib.import_module("transformers.integrations.deepgemm")
    theirs.is_kernels_available = lambda: True
    return theirs


def run(theirs: Any) -> int:
    checks = Checks()
    checks("deepgemm_fp8_fp4_linear", partial(linear, theirs))
    checks("deepgemm_fp8_fp4_linear, scales of weights in UE8M0", partial(declined, theirs))
    checks("deepgemm_fp8_fp4_experts_forward", partial(experts, theirs, 8))
    checks("deepgemm_fp8_fp4_experts_forward, of half the experts", partial(experts, theirs, 4))
    checks("deepgemm_bf16_experts_forward", partial(bf16_experts, theirs))
    return checks.end()


def linear(theirs: Any) -> str:
    import torch
    from products import ROUNDED, compare, exact_blocks, exact_rows, quantised_rows, weights

    x = torch.randn(3, 50, 512, device="cuda", dtype=torch.bfloat16)
    w, s = weights(576, 512)
    bias = torch.randn(576, device="cuda", dtype=torch.bfloat16)
    out = theirs.deepgemm_fp8_fp4_linear(x, w, s, bias=bias, block_size=(128, 128))
    without = theirs.deepgemm_fp8_fp4_linear(x, w, s, block_size=(128, 128))
    assert torch.equal(out, without + bias)
    wanted = exact_rows(*quantised_rows(x.flatten(0, 1))) @ exact_blocks(w, s).T
    return compare(without.flatten(0, 1), wanted, ROUNDED)


def declined(theirs: Any) -> str:
    """On Hopper they repeat such scales for each row, which DeepGEMM refuses, too; of a ValueError they go on
    with their kernel in Triton."""
    import torch
    from products import weights

    x = torch.randn(50, 512, device="cuda", dtype=torch.bfloat16)
    w, s = weights(512, 512, powers_of_two=True)
    try:
        theirs.deepgemm_fp8_fp4_linear(x, w, s.to(torch.float8_e8m0fnu), block_size=(128, 128))
    except ValueError as refused:
        return f"declined, for Triton: {refused}"
    raise AssertionError("it was computed")


def layer(num_experts: int, up: Any, down: Any, **named: Any) -> SimpleNamespace:
    """What their functions ask of a module of experts."""
    import torch

    def apply_gate(gate_up: Any) -> Any:
        gate, up = gate_up.chunk(2, -1)
        return torch.nn.functional.silu(gate) * up

    return SimpleNamespace(
        num_experts=num_experts,
        gate_up_proj=up,
        down_proj=down,
        has_gate=True,
        has_bias=False,
        has_post_expert_norm=False,
        is_transposed=False,
        block_size=(128, 128),
        activation_scheme="dynamic",
        _apply_gate=apply_gate,
        _deepgemm_disabled=False,
        **named,
    )


def experts(theirs: Any, here: int) -> str:
    """Of eight experts the first are here, and others are somewhere else: their expert parallelism."""
    import torch
    from products import (
        REQUANTISED,
        compare,
        exact_blocks,
        exact_rows,
        experts_product,
        quantised_rows,
        routed,
        weights,
    )

    x, ids, shares = routed(tokens=70, hidden=512, experts=8, chosen=2)
    (up, up_scales), (down, down_scales) = weights(here, 512, 512), weights(here, 512, 256)
    module = layer(
        here,
        up,
        down,
        gate_up_proj_scale_inv=up_scales,
        down_proj_scale_inv=down_scales,
        _is_expert_parallel=here < 8,
    )
    out = theirs.deepgemm_fp8_fp4_experts_forward(module, x, ids.clamp(max=here), shares)
    exact = exact_rows(*quantised_rows(x))
    wanted = experts_product(exact, ids, shares, exact_blocks(up, up_scales), exact_blocks(down, down_scales))
    assert out.dtype is torch.bfloat16
    return compare(out, wanted, REQUANTISED)


def bf16_experts(theirs: Any) -> str:
    import torch
    from products import REQUANTISED, compare, experts_product, routed

    x, ids, shares = routed(tokens=70, hidden=512, experts=8, chosen=2)
    up, down = (torch.randn(8, *shape, device="cuda").bfloat16() for shape in ((512, 512), (512, 256)))
    module = layer(8, up, down, _is_expert_parallel=False)
    out = theirs.deepgemm_bf16_experts_forward(module, x, ids, shares)
    return compare(out, experts_product(x.double(), ids, shares, up.double(), down.double()), REQUANTISED)


if __name__ == "__main__":
    sys.exit(main())
