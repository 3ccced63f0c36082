"""Weights of a gate and of what it opens for, by turns: laid out and back, in layers, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cute_gemm import (
    dequantize_1x128,
    epilogue,
    fp8_gemm_nt,
    interleave_gate_up,
    quantize_1x128,
    quantize_128x128,
    split_gate_up,
)

M, K = 70, 272
QUANTIZE = epilogue.quantize_1x128()
DRAW = torch.Generator().manual_seed(11)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=DRAW)


def bits(x: Tensor) -> Tensor:
    return x.view(torch.uint8)


BIAS, RHS = normal(544), quantize_128x128(normal(544, K))


@epilogue.gated
def linear_unit(gate: Any, up: Any, alpha: Any) -> Any:
    return epilogue.maximum(gate, 0.0) * (up + alpha)


@pytest.mark.parametrize("shape", [(48, 32), (3, 16, 8)])
def test_weights_are_laid_out_by_turns_and_back(shape: tuple[int, ...]) -> None:
    gate, up = normal(*shape), normal(*shape)
    both = interleave_gate_up(gate, up)
    assert both.shape == (*shape[:-2], 2 * shape[-2], shape[-1])
    assert both.is_contiguous()
    assert torch.equal(both[..., 8:16, :], up[..., :8, :])
    assert torch.equal(both[..., 16:24, :], gate[..., 8:16, :])
    assert all(torch.equal(x, y) for x, y in zip(split_gate_up(both), (gate, up), strict=True))
    assert torch.equal(interleave_gate_up(gate.mT, up.mT, dim=-1), both.mT)


def test_quantised_weights_are_laid_out_in_their_blocks() -> None:
    """Values and scales are those that were given, so a layer of them has the sums of two products."""
    inner = 256
    lhs, gate, up = quantize_1x128(normal(M, K)), *(quantize_128x128(normal(inner, K)) for _ in range(2))
    both = interleave_gate_up(gate, up, turn=128)
    assert both[0].shape == (2 * inner, K)
    assert both[1].shape == (4, 3)
    for (q, s), (want_q, want_s) in zip(split_gate_up(both, turn=128), (gate, up), strict=True):
        assert torch.equal(bits(q), bits(want_q))
        assert torch.equal(s, want_s)
    made = linear_unit(0.5, turn=128)
    q, s = fp8_gemm_nt(lhs, both, epilogue=made | epilogue.bias(BIAS[:inner]) | QUANTIZE)
    of_gate, of_up = (fp8_gemm_nt(lhs, each, out_dtype=torch.float32) for each in (gate, up))
    want_q, want_s = quantize_1x128(torch.relu(of_gate) * (of_up + 0.5) + BIAS[:inner])
    assert torch.equal(bits(q), bits(want_q))
    assert torch.equal(s, want_s)
    stacked = interleave_gate_up(*((q[None], s[None]) for q, s in (gate, up)), turn=128)
    assert torch.equal(bits(stacked[0][0]), bits(both[0]))
    bias = interleave_gate_up(BIAS[:inner], BIAS[:inner] + 1, dim=-1, turn=128)
    assert torch.equal(bias[128:256], BIAS[:128] + 1)


def test_a_layer_of_laid_out_weights() -> None:
    inner = 128 + 16
    x, gate, up = normal(M, K), normal(inner, K), normal(inner, K)
    bias = interleave_gate_up(gate[:, 0], up[:, 0], dim=-1)
    lhs, rhs = quantize_1x128(x), quantize_128x128(interleave_gate_up(gate, up))
    q, s = fp8_gemm_nt(lhs, rhs, epilogue=epilogue.bias(bias) | epilogue.swiglu() | QUANTIZE)
    of_gate, of_up = (x.double() @ w.double().T + w[:, 0] for w in (gate, up))
    want = functional.silu(of_gate) * of_up
    assert (dequantize_1x128(q, s) - want).norm() < 0.08 * want.norm()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: interleave_gate_up(RHS, RHS), TypeError, "gate is quantised, .* 64 rows of gate and of up"),
        (lambda: interleave_gate_up(BIAS[:, None], RHS[0]), TypeError, "up is quantised"),
        (lambda: split_gate_up(RHS[0]), TypeError, "weight is quantised"),
        (lambda: split_gate_up(RHS), TypeError, "weight is quantised.*`turn=128`"),
        (lambda: split_gate_up(RHS, turn=128), ValueError, "wanted a multiple of 128 in dimension -2"),
        (lambda: interleave_gate_up(BIAS, BIAS, dim=-1, turn=16), ValueError, "turn is 16; wanted 8 or 128"),
        (
            lambda: interleave_gate_up((RHS[0][:512], RHS[1]), (RHS[0][:512], RHS[1]), turn=128),
            ValueError,
            r"the scales of gate have shape \(5, 3\); wanted \(4, 3\)",
        ),
        (lambda: interleave_gate_up(BIAS, None), TypeError, "up is None"),
        (lambda: interleave_gate_up(BIAS[:8], BIAS[:16], dim=-1), ValueError, "wanted what gate is"),
        (
            lambda: interleave_gate_up(BIAS[:4], BIAS[:4], dim=-1),
            ValueError,
            r"gate has shape \(4,\); wanted a m",
        ),
        (lambda: interleave_gate_up(BIAS, BIAS), ValueError, "dim is -2; wanted a dimension of gate"),
        (lambda: split_gate_up(BIAS[:24], dim=0), ValueError, "multiple of 16 in dimension 0"),
    ],
)
def test_weights_that_cannot_be_are_refused(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()
