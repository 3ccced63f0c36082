"""Operands, and what products of them should be: those of the dequantised operands, in FP64."""

from __future__ import annotations

import torch
from torch import Tensor

from cute_gemm import dequantize_1x128, dequantize_128x128, quantize_1x128, quantize_128x128
from cute_gemm.testing import gate, worst_tile_error

ROUNDED = gate(128, 128, torch.bfloat16)
"""How far a product may be off that is rounded to bf16 once."""
REQUANTISED = 4e-3
"""How far layers may be off that quantise what lies between their products, which FP64 does not. Rounded to
nearest that is 4e-4; Triton's interpreter rounds e4m3 towards zero."""


def weights(*shape: int, powers_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """E4m3 of normal data, and its scales for blocks of 128x128."""
    return quantize_128x128(torch.randn(*shape, device="cuda"), power_of_two_scales=powers_of_two)


def quantised_rows(x: Tensor, powers_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """E4m3, and its scales for 1x128."""
    return quantize_1x128(x, power_of_two_scales=powers_of_two)


def exact_rows(q: Tensor, s: Tensor) -> Tensor:
    """FP64 of e4m3 with scales for 1x128."""
    return dequantize_1x128(q, s, torch.float64)


def exact_blocks(q: Tensor, s: Tensor) -> Tensor:
    """FP64 of e4m3 with scales for 128x128."""
    return dequantize_128x128(q, s, torch.float64)


def silu_and_mul(x: Tensor) -> Tensor:
    """SwiGLU of rows whose first half is the gate, in their dtype."""
    gate, linear = x.chunk(2, -1)
    return (torch.nn.functional.silu(gate.float()) * linear.float()).to(x.dtype)


def routed(*, tokens: int, hidden: int, experts: int, chosen: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows in bf16, the experts of each, and their shares in FP32."""
    x = torch.randn(tokens, hidden, device="cuda", dtype=torch.bfloat16)
    shares, ids = torch.randn(tokens, experts, device="cuda").softmax(-1).topk(chosen)
    return x, ids, shares


def experts_product(x: Tensor, ids: Tensor, shares: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """A layer of experts with SwiGLU, gate before up, in FP64; experts beyond those of `up` add nothing."""
    out = x.new_zeros(x.shape[0], down.shape[-2])
    for expert in range(up.shape[0]):
        rows, places = torch.where(ids == expert)
        gate, linear = (x[rows] @ up[expert].T).chunk(2, -1)
        made = (torch.nn.functional.silu(gate) * linear) @ down[expert].T
        out.index_add_(0, rows, made * shares[rows, places, None].double())
    return out


def compare(out: Tensor, wanted: Tensor, bound: float) -> str:
    """Says how far the worst tile of 128x128 is off.

    Raises:
        AssertionError: it is above the bound, or something is not finite.
    """
    assert out.isfinite().all(), "not all is finite"
    error = worst_tile_error(out, wanted)
    assert error < bound, f"the worst tile is off by {error:.1e}, above {bound:.1e}"
    return f"the worst tile is off by {error:.1e}"
