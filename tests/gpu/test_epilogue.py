"""Epilogues in kernels, against the same function on the reference's sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensors import bits
from torch import Tensor

from cute_gemm import (
    config,
    epilogue,
    fp8_gemm_nt,
    m_grouped_fp8_gemm_nt_contiguous,
    m_grouped_fp8_gemm_nt_masked,
    m_grouped_fp8_gemm_nt_offsets,
)
from cute_gemm.testing import (
    GroupedInputs,
    make_contiguous_inputs,
    make_inputs,
    make_masked_inputs,
    make_offsets_inputs,
)

SHAPES = [
    (1, 2112, 7168),
    (5, 576, 1040),
    (64, 4096, 1024),
    (130, 400, 528),
    (300, 2048, 2064),
    (2000, 4096, 512),
]
"""Few rows, for which k-blocks are shared out; and every tile height."""


@epilogue.function
def own(x: Any, shift: Any, factor: Any) -> Any:
    y = x - shift
    return epilogue.where(y > 0, y, factor * epilogue.tanh(y))


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, device="cuda").to(dtype)


def epilogues(m: int, n: int) -> dict[str, tuple[epilogue.Epilogue, epilogue.Epilogue]]:
    """On the GPU, and the same on the CPU."""
    bias, weights, other = normal(n, dtype=torch.bfloat16), normal(m), normal(m, n, dtype=torch.bfloat16)
    device = normal(1)
    made = {}
    for name, build in {
        "bias_silu": lambda b, w, o, d: epilogue.bias_silu(b),
        "gelu": lambda b, w, o, d: epilogue.bias_gelu(b) | epilogue.gelu("tanh"),
        "residual": lambda b, w, o, d: epilogue.alpha(d) | epilogue.residual(o, -0.5),
        "weights": lambda b, w, o, d: epilogue.relu() | epilogue.row_weights(w),
        "one's own": lambda b, w, o, d: own(epilogue.per_column(b), 0.25),
        "many": lambda b, w, o, d: epilogue.bias_silu(b) | epilogue.residual(o) | epilogue.row_weights(w),
    }.items():
        made[name] = (
            build(bias, weights, other, device),
            build(bias.cpu(), weights.cpu(), other.cpu(), device.cpu()),
        )
    return made


def assert_about(got: Tensor, want: Tensor, sums: Tensor) -> None:
    """To what tensor cores cut, tanh in one instruction, and rounding to bf16."""
    scale = sums.abs().float().cpu() + want.abs().float()
    error = (got.float().cpu() - want.float()).abs()
    assert (error <= 2**-7 * scale + 2**-7).all(), (error / scale).max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dense(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    lhs, rhs = make_inputs(*shape, device="cuda")
    sums = fp8_gemm_nt(lhs, rhs, out_dtype=torch.float32)
    for name, (on_gpu, on_cpu) in epilogues(*shape[:2]).items():
        out = torch.full(shape[:2], torch.nan, dtype=dtype, device="cuda")
        fp8_gemm_nt(lhs, rhs, out, epilogue=on_gpu)
        want = on_cpu.apply(sums.cpu(), None, None).to(dtype)
        assert out.isfinite().all(), name
        assert_about(out, want, sums)
        again = fp8_gemm_nt(lhs, rhs, out_dtype=dtype, epilogue=on_gpu)
        assert torch.equal(bits(again), bits(out)), name


def test_it_is_added_to_what_was_there() -> None:
    for shape in SHAPES:
        lhs, rhs = make_inputs(*shape, device="cuda")
        sums = fp8_gemm_nt(lhs, rhs, out_dtype=torch.float32)
        before = normal(*shape[:2])
        out = before.clone()
        fp8_gemm_nt(lhs, rhs, out, epilogue=epilogue.accumulate(2.0))
        torch.testing.assert_close(out, sums + 2 * before, rtol=1e-5, atol=1e-5)


SIZES = (70, 0, 200, 1, 130)


def grouped(n: int, k: int) -> dict[str, tuple[Callable[..., Tensor], GroupedInputs, tuple[Any, ...]]]:
    of = dict(n=n, k=k, device="cuda")
    return {
        "contiguous": (m_grouped_fp8_gemm_nt_contiguous, make_contiguous_inputs(SIZES, **of), ()),
        "offsets": (m_grouped_fp8_gemm_nt_offsets, make_offsets_inputs(SIZES, **of), ()),
        "masked": (m_grouped_fp8_gemm_nt_masked, make_masked_inputs(SIZES, 210, **of), (80,)),
    }


@pytest.mark.parametrize("name", ["contiguous", "offsets", "masked"])
def test_groups(name: str) -> None:
    operation, given, count = grouped(400, 528)[name]
    plain = operation(given.lhs, given.rhs, given.index, *count, out_dtype=torch.float32)
    bias, weights = normal(len(SIZES), plain.shape[-1]), normal(*plain.shape[:-1])
    other = normal(*plain.shape, dtype=torch.bfloat16)
    made = epilogue.bias(bias) | epilogue.row_weights(weights) | epilogue.residual(other)
    out = torch.full_like(plain, 5.0)
    operation(given.lhs, given.rhs, given.index, *count, out=out, epilogue=made)
    is_written = (given.row_groups >= 0)[..., None].expand_as(out)
    want = (plain + bias[given.row_groups.clamp(min=0).long()]) * weights[..., None] + other.float()
    torch.testing.assert_close(out[is_written], want[is_written], rtol=1e-5, atol=1e-4)
    assert (out[~is_written] == 5).all()


def test_in_a_graph_another_number_needs_no_other_kernel() -> None:
    lhs, rhs = make_inputs(64, 512, 1024, device="cuda")
    factor, out = normal(1), torch.empty(64, 512, device="cuda")
    for pdl in (True, False):
        with config(pdl=pdl):
            fp8_gemm_nt(lhs, rhs, out, epilogue=epilogue.alpha(factor))
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                fp8_gemm_nt(lhs, rhs, out, epilogue=epilogue.alpha(factor))
            for value in (1.0, 2.0):
                factor.fill_(value)
                graph.replay()
                assert torch.equal(out, value * fp8_gemm_nt(lhs, rhs, out_dtype=torch.float32))
