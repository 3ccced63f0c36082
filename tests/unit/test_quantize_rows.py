"""Which rows are quantised, where results go, and what is made of rows before: on the CPU, in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import cute_gemm
from cute_gemm.quantize import (
    dequantize_1x128,
    m_major,
    quantize_1x128,
    quantize_128x128,
    quantize_both_ways,
    rms_norm_quantize_1x128,
    swiglu_quantize_1x128,
)
from cute_gemm.runtime.launcher import tma_can_load

E4M3 = torch.float8_e4m3fn
POISON = 0x7F
"""The bits of a NaN."""


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def poisoned(*shape: int) -> tuple[Tensor, Tensor]:
    """Where to write e4m3 and scales."""
    q = torch.full(shape, POISON, dtype=torch.uint8).view(E4M3)
    return q, torch.full((*shape[:-1], -(-shape[-1] // 128)), -7.0)


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def normed(x: Tensor, **named: Any) -> tuple[Tensor, Tensor]:
    """Rows of any number of columns, normalised."""
    return rms_norm_quantize_1x128(x, normal(x.shape[-1], seed=9), 1e-5, **named)


def check(x: Tensor, is_written: Tensor, sources: Tensor | None, **selection: Any) -> None:
    """Rows that are selected are those of a plain call, and of the others nothing is written."""
    shape = (*(x.shape[:-1] if sources is None else sources.shape), x.shape[-1])
    for quantize in (quantize_1x128, normed):
        q, s = poisoned(*shape)
        made = quantize(x, out=q, scales_out=s, **selection)
        assert made[0] is q
        assert made[1] is s
        want_q, want_s = quantize(x if sources is None else x[sources])
        # Torch 2.8 does not index e4m3.
        assert same(q.view(torch.uint8)[is_written], want_q.view(torch.uint8)[is_written])
        assert same(s[is_written], want_s[is_written])
        assert (q.view(torch.uint8)[~is_written] == POISON).all()
        assert (s[~is_written] == -7).all()
    if sources is None:
        check_residual(x, is_written, **selection)


def check_residual(x: Tensor, is_written: Tensor, **selection: Any) -> None:
    """It changes where rows are selected, and nowhere else."""
    residual = normal(*x.shape, seed=5)
    added, (q, s) = residual.clone(), poisoned(*x.shape)
    normed(x, residual=added, out=q, scales_out=s, **selection)
    want = (x.float() + residual.float()).to(x.dtype)
    assert torch.equal(added[is_written], want[is_written])
    assert torch.equal(added[~is_written], residual[~is_written])
    want_q, want_s = normed(want)
    assert same(q.view(torch.uint8)[is_written], want_q.view(torch.uint8)[is_written])
    assert same(s[is_written], want_s[is_written])
    assert (s[~is_written] == -7).all()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rows_are_gathered_and_those_that_are_not_there_left_out(dtype: torch.dtype) -> None:
    rows = torch.tensor([3, 3, 0, -1, 4, 5, 2, 1 << 30], dtype=dtype)
    is_one = (rows >= 0) & (rows < 5)
    check(normal(5, 300), is_one, rows.clamp(0, 4).long(), rows=rows)
    q, _ = quantize_1x128(normal(5, 300), rows=rows[:0])
    assert q.shape == (0, 300)


def test_of_matrices_the_valid_rows() -> None:
    counts = int32(0, 3, 7, 9, -2)
    x = normal(5, 7, 200)
    check(x, torch.arange(7) < counts[:, None], None, valid_rows=counts)


def test_rows_of_groups() -> None:
    groups = int32(0, 0, -1, 3, 2, -1)
    check(normal(6, 200), groups >= 0, None, group_index=groups)


@pytest.mark.parametrize(
    ("alignment", "ends", "written"),
    [
        (1, (3, 3, 8), [*range(8)]),
        (4, (3, 4, 10), [0, 1, 2, 4, 5, 6, 7, 8, 9]),
        (8, (5, 12), [0, 1, 2, 3, 4, 8, 9, 10, 11]),
        (1, (), []),
    ],
)
def test_rows_by_offsets(alignment: int, ends: tuple[int, ...], written: list[int]) -> None:
    is_written = torch.zeros(14, dtype=torch.bool)
    is_written[written] = True
    check(normal(14, 144), is_written, None, offsets=int32(*ends), alignment=alignment)


@pytest.mark.parametrize("shape", [(7, 300), (3, 9, 260)])
def test_scales_are_laid_out_as_asked(shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    q, s = quantize_1x128(x)
    q_m, s_m = quantize_1x128(x, m_major_scales=True)
    assert same(q, q_m)
    assert torch.equal(s, s_m)
    assert s_m.stride() == m_major(s).stride()
    assert tma_can_load(s_m)
    into = torch.full((*shape[:-1], 8), 3.0)[..., ::2][..., : s.shape[-1]]
    assert quantize_1x128(x, scales_out=into)[1] is into
    assert torch.equal(into, s)


def test_results_that_are_given_are_written_and_noticed_by_autograd() -> None:
    for quantize in (quantize_1x128, quantize_128x128):
        x = normal(130, 260)
        want_q, want_s = quantize(x)
        q, s = torch.empty_like(want_q), torch.empty_like(want_s)
        versions = q._version, s._version
        assert quantize(x, out=q, scales_out=s)[0] is q
        assert same(q, want_q)
        assert same(s, want_s)
        assert q._version > versions[0]
        assert s._version > versions[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_swiglu_of_halves_and_of_columns_that_alternate(dtype: torch.dtype) -> None:
    gate, up = normal(9, 272, dtype=dtype), normal(9, 272, seed=1, dtype=dtype)
    want = quantize_1x128(torch.nn.functional.silu(gate.float()) * up.float())
    got = swiglu_quantize_1x128(torch.cat([gate, up], 1))
    mixed = torch.stack([gate.unflatten(1, (-1, 8)), up.unflatten(1, (-1, 8))], 2).flatten(1)
    interleaved = swiglu_quantize_1x128(mixed, interleaved=True)
    # What silu gives depends in its last bit on where an element lies: vectors, and what is left of a row.
    for q, s in (got, interleaved):
        torch.testing.assert_close(s, want[1], rtol=1e-6, atol=0)
        assert (q.view(torch.uint8) != want[0].view(torch.uint8)).float().mean() < 0.01
        torch.testing.assert_close(q.float(), want[0].float(), rtol=1 / 8, atol=2**-9)
    q, s = swiglu_quantize_1x128(torch.cat([gate, up], 1), rows=int32(8, -1, 2), m_major_scales=True)
    torch.testing.assert_close(s[::2], got[1][[8, 2]], rtol=1e-6, atol=0)
    torch.testing.assert_close(q[::2].float(), got[0].float()[[8, 2]], rtol=1 / 8, atol=2**-9)


@pytest.mark.parametrize("m_major", [False, True])
@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("shape", [(272, 400), (1, 5), (3, 130, 40), (2, 3, 6, 8), (0, 4, 8), (2, 0, 8)])
def test_both_ways_are_two_calls(shape: tuple[int, ...], power: bool, m_major: bool) -> None:
    named = {"power_of_two_scales": power, "m_major_scales": m_major}
    for x in (normal(*shape), normal(*shape[:-2], shape[-1], shape[-2]).mT):
        along_k, along_m = quantize_both_ways(x, **named)
        for got, want in (
            (along_k, quantize_1x128(x, **named)),
            (along_m, quantize_1x128(x.mT.contiguous(), **named)),
        ):
            for a, b in zip(got, want, strict=True):
                assert torch.equal(a, b) if a.dtype is torch.float32 else same(a, b)
                assert a.stride() == b.stride()
                assert a.shape == b.shape


def test_both_ways_write_what_is_given() -> None:
    x = normal(3, 130, 300)
    (q, s), (q_t, s_t) = quantize_both_ways(x)
    names = "out", "scales_out", "out_t", "scales_out_t"
    made = [torch.empty_like(each) for each in (q, s, q_t, s_t)]
    made[3] = torch.empty(3, 2, 300).mT
    for given in ((0,), (1, 3), (2,), (0, 1, 2, 3)):
        versions = [each._version for each in made]
        along_k, along_m = quantize_both_ways(x, **{names[i]: made[i] for i in given})
        found = (*along_k, *along_m)
        for i, (each, want) in enumerate(zip(found, (q, s, q_t, s_t), strict=True)):
            assert same(each, want)
            assert (each is made[i]) == (i in given)
            assert (made[i]._version > versions[i]) == (i in given)


@pytest.mark.parametrize("shape", [(200,), (3, 7, 200), (2, 3, 2, 200), (0, 3, 16)])
def test_normed_rows_have_any_number_of_dimensions(shape: tuple[int, ...]) -> None:
    x, residual = normal(*shape), normal(*shape, seed=2)
    q, s = normed(x)
    want_q, want_s = normed(x.reshape(-1, shape[-1]))
    assert (q.shape, s.shape) == (shape, (*shape[:-1], -(-shape[-1] // 128)))
    assert same(q.reshape(-1), want_q.reshape(-1))
    assert same(s.reshape(-1), want_s.reshape(-1))
    added = residual.clone()
    q, s = normed(x, residual=added, m_major_scales=True)
    assert torch.equal(added, (x.float() + residual.float()).bfloat16())
    want = normed(added)
    assert same(q, want[0])
    assert torch.equal(s, want[1])


def test_rows_of_matrices_lie_anyhow() -> None:
    x = normal(5, 6, 512)
    for view in (x[:, :, 128:-128], x.transpose(0, 1)[:, ::2], x[:, :1].expand(5, 3, 512)):
        for quantize in (quantize_1x128, swiglu_quantize_1x128, normed, quantize_128x128):
            got, want = quantize(view), quantize(view.contiguous())
            assert same(got[0], want[0])
            assert same(got[1], want[1])


def test_normed_rows_and_their_residual() -> None:
    x, weight, residual = normal(6, 500), normal(500, seed=1), normal(6, 500, seed=2)
    added = (x.float() + residual.float()).bfloat16()
    for more, source in (({}, x), ({"residual": residual}, added)):
        wide = source.double()
        want = wide / (wide.square().mean(1, keepdim=True) + 1e-5).sqrt() * weight.double()
        q, s = rms_norm_quantize_1x128(x, weight, 1e-5, **more)
        back = dequantize_1x128(q, s, torch.float64)
        step = s.double().repeat_interleave(128, 1)[:, :500] * 2**-10
        assert ((back - want).abs() <= want.abs() * 2**-4 * 1.001 + step).all()
    assert same(residual, added)


def test_settings_of_torch_change_no_bit() -> None:
    x, weight = normal(8, 512), normal(512)
    calls: list[Callable[[], Any]] = [
        lambda: swiglu_quantize_1x128(x),
        lambda: rms_norm_quantize_1x128(x, weight),
        lambda: quantize_both_ways(x)[1],
    ]
    for call in calls:
        want = call()
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            got = call()
        assert all(same(a, b) for a, b in zip(got, want, strict=True))


X = normal(4, 256)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: quantize_1x128(X, rows=int32(0), offsets=int32(4)),
            ValueError,
            "rows and offsets are",
        ),
        (lambda: quantize_1x128(X, rows=[0]), TypeError, "rows is a builtins.list; wanted a torch.Tensor"),
        (lambda: quantize_1x128(X, rows=torch.zeros(2)), TypeError, "rows has dtype torch.float32; wanted"),
        (
            lambda: quantize_1x128(X, rows=int32(0)[None]),
            ValueError,
            r"rows has shape \(1, 1\); wanted",
        ),
        (
            lambda: quantize_1x128(X, rows=torch.zeros(8, dtype=torch.int32)[::2]),
            ValueError,
            r"rows has stride 2; .*`rows.contiguous\(\)`",
        ),
        (lambda: quantize_1x128(X[None], rows=int32(0)), ValueError, r"x has shape .*; wanted \[M, K\], as"),
        (lambda: quantize_1x128(X, valid_rows=int32(0)), ValueError, r"wanted \[G, capacity, K\], as valid"),
        (lambda: quantize_1x128(X[None], valid_rows=int32(0, 0)), ValueError, "valid_rows has shape"),
        (lambda: quantize_1x128(X, group_index=int32(0, 0)), ValueError, "group_index has shape"),
        (lambda: quantize_1x128(X, offsets=torch.zeros(2)), TypeError, "offsets has dtype torch.float32"),
        (lambda: quantize_1x128(X, offsets=int32(4), alignment=0), ValueError, "alignment is 0; wanted"),
        (
            lambda: quantize_1x128(X, offsets=int32(4), alignment=2.0),
            TypeError,
            "alignment is a built",
        ),
        (
            lambda: quantize_1x128(X, m_major_scales=1),
            TypeError,
            "m_major_scales is a builtins.int",
        ),
        (lambda: quantize_1x128(X, out=3), TypeError, "out is a builtins.int; wanted a torch.Tensor"),
        (lambda: quantize_1x128(X, out=X), TypeError, "out has dtype torch.bfloat16; wanted torch.float8"),
        (lambda: quantize_1x128(X, out=poisoned(4, 128)[0]), ValueError, r"out has shape \(4, 128\); wanted"),
        (
            lambda: quantize_1x128(X, scales_out=torch.empty(4, 1)),
            ValueError,
            r"scales_out has shape \(4, 1\); wanted \(4, 2\): .*or leave `scales_out` away",
        ),
        (
            lambda: quantize_1x128(X, scales_out=torch.empty(4, 1).expand(4, 2)),
            ValueError,
            r"scales_out has strides \(1, 0\), so elements may share memory",
        ),
        (
            lambda: quantize_1x128(X, out=X.view(E4M3).view(-1)[:1024].view(4, 256)),
            ValueError,
            "out lies in the memory of x",
        ),
        (lambda: swiglu_quantize_1x128(normal(3, 257)), ValueError, "x has 257 columns; wanted gate and up"),
        (lambda: swiglu_quantize_1x128(normal(3, 24), interleaved=True), ValueError, "a multiple of 16"),
        (lambda: swiglu_quantize_1x128(X, interleaved="no"), TypeError, "interleaved is a builtins.str"),
        (lambda: quantize_both_ways(X[0]), ValueError, r"x has shape \(256,\); wanted \[\.\.\., M, K\]"),
        (lambda: quantize_both_ways(X, m_major_scales=1), TypeError, "m_major_scales is a builtins.int"),
        (lambda: quantize_both_ways(X, out_t=3), TypeError, "out_t is a builtins.int; wanted a torch.Tensor"),
        (lambda: quantize_both_ways(X, out_t=X.mT), TypeError, "out_t has dtype torch.bfloat16; wanted"),
        (
            lambda: quantize_both_ways(X, out_t=poisoned(4, 256)[0]),
            ValueError,
            r"out_t has shape \(4, 256\); wanted \(256, 4\): .*or leave `out_t` away",
        ),
        (
            lambda: quantize_both_ways(X, scales_out_t=torch.empty(256, 2)),
            ValueError,
            r"scales_out_t has shape \(256, 2\); wanted \(256, 1\)",
        ),
        (
            lambda: (lambda q: quantize_both_ways(X, out=q, out_t=q.view(256, 4)))(poisoned(4, 256)[0]),
            ValueError,
            "out_t lies in the memory of out",
        ),
        (
            lambda: (lambda q: quantize_both_ways(X, out=q, scales_out_t=q.view(torch.float32).view(256, 1)))(
                poisoned(4, 256)[0]
            ),
            ValueError,
            "scales_out_t lies in the memory of out",
        ),
        (
            lambda: quantize_both_ways(X, out_t=X.view(E4M3).view(-1)[:1024].view(256, 4)),
            ValueError,
            "out_t lies in the memory of x",
        ),
        (
            lambda: rms_norm_quantize_1x128(X, X[0].float()),
            TypeError,
            "weight has dtype torch.float32",
        ),
        (
            lambda: rms_norm_quantize_1x128(X, X[0, :9]),
            ValueError,
            r"weight has shape \(9,\); wanted",
        ),
        (lambda: rms_norm_quantize_1x128(X, X[0], residual=X), ValueError, "lies in the memory of x"),
        (
            lambda: rms_norm_quantize_1x128(X, X[0], residual=X[:2]),
            ValueError,
            r"residual has shape \(2",
        ),
        (
            lambda: rms_norm_quantize_1x128(X, X[0].clone(), residual=X.clone(), rows=int32(0, 0)),
            ValueError,
            "residual and rows are given, and a row that is taken twice",
        ),
        (
            lambda: rms_norm_quantize_1x128(X, X[0], rows=int32(0), offsets=int32(4)),
            ValueError,
            "rows and offsets are given",
        ),
        (
            lambda: rms_norm_quantize_1x128(X, X[0], valid_rows=int32(0)),
            ValueError,
            r"x has shape .*wanted \[G, capacity, K\], as valid_rows is given",
        ),
        (
            lambda: rms_norm_quantize_1x128(
                X, X[0].clone(), residual=(r := X.clone()), group_index=r.view(torch.int32)[0, :4]
            ),
            ValueError,
            "residual lies in the memory of group_index",
        ),
        (
            lambda: rms_norm_quantize_1x128(X, X[0], offsets=int32(4), alignment=0),
            ValueError,
            "alignment is 0; wanted",
        ),
        (
            lambda: rms_norm_quantize_1x128(X, torch.nn.Parameter(X[0])),
            ValueError,
            r"weight requires a gradient, .*`weight.detach\(\)`",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_results_made_in_inference_mode_are_written_outside_of_it() -> None:
    with torch.inference_mode():
        q, s = poisoned(4, 256)
        residual = X.clone()
    assert same(quantize_1x128(X, out=q, scales_out=s)[0], quantize_1x128(X)[0])
    quantize_128x128(X, out=q, scales_out=s[:1])
    rms_norm_quantize_1x128(X, X[0].clone(), residual=residual, out=q, scales_out=s)


def test_they_are_public() -> None:
    for function in (quantize_both_ways, rms_norm_quantize_1x128, swiglu_quantize_1x128):
        assert getattr(cute_gemm, function.__name__) is function
