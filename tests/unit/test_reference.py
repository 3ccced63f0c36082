"""The torch implementation against a plain loop, and the FP64 product against exact arithmetic."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cute_gemm import reference
from cute_gemm.quantize import m_major
from cute_gemm.reference import dequantized_product, fp8_gemm_nt, product_scale
from cute_gemm.testing import make_inputs

E4M3 = torch.float8_e4m3fn


def exact_product(a, sa, b, sb):
    """Element by element, in rational numbers."""

    def wide(q, s, height):
        return [
            [Fraction(x) * Fraction(s[i // height, j // 128].item()) for j, x in enumerate(row)]
            for i, row in enumerate(q.double().tolist())
        ]

    rows, columns = wide(a, sa, 1), wide(b, sb, 128)
    return [
        [float(sum((x * y for x, y in zip(r, c, strict=True)), Fraction(0))) for c in columns] for r in rows
    ]


def relative_error(x, y):
    return ((x.double() - y).norm() / y.norm()).item()


@pytest.mark.parametrize(("m", "n", "k"), [(2, 8, 16), (3, 136, 128), (2, 8, 144), (1, 130, 300)])
def test_dequantized_product_is_exact(m, n, k):
    a, b = make_inputs(m, n, k, "wide_scales")
    want = torch.tensor(exact_product(*a, *b), dtype=torch.float64)
    assert torch.allclose(dequantized_product(*a, *b), want, rtol=1e-12, atol=want.abs().max().item() * 1e-15)


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(0, 140),
    n=st.integers(0, 280),
    k=st.integers(0, 300),
    kind=st.sampled_from(["normal", "outliers", "zero_blocks", "wide_scales"]),
)
def test_reference_agrees_with_the_product(m, n, k, kind):
    a, b = make_inputs(m, n, k, kind)
    out = fp8_gemm_nt(*a, *b, out_dtype=torch.float32)
    assert out.shape == (m, n)
    assert out.dtype == torch.float32
    want = dequantized_product(*a, *b)
    scale = product_scale(*a, *b)
    assert ((out.double() - want).abs() <= 2.0**-18 * scale).all()
    if min(m, n, k):
        assert want.any()


def test_scales_of_every_block_reach_the_result():
    """Each scale doubled in turn must double exactly its own share of the result."""
    (a, sa), (b, sb) = make_inputs(2, 136, 272)
    base = fp8_gemm_nt(a, sa, b, sb, torch.float32).double()
    for scales, rows in ((sa, 1), (sb, 128)):
        for i in range(scales.shape[0]):
            for block in range(scales.shape[1]):
                doubled = scales.clone()
                doubled[i, block] *= 2
                pair = (doubled, sb) if scales is sa else (sa, doubled)
                got = fp8_gemm_nt(a, pair[0], b, pair[1], torch.float32).double() - base
                part = slice(block * 128, (block + 1) * 128)
                share = dequantized_product(
                    a[:, part], sa[:, block : block + 1], b[:, part], sb[:, block : block + 1]
                )
                mask = torch.zeros_like(share)
                mine = slice(i * rows, (i + 1) * rows)
                (mask if scales is sa else mask.t())[mine] = 1
                assert (got - share * mask).abs().max() < 1e-4 * share.abs().max()


def test_output_is_rounded_once():
    a, b = make_inputs(64, 72, 400)
    wide = fp8_gemm_nt(*a, *b, out_dtype=torch.float32)
    assert torch.equal(fp8_gemm_nt(*a, *b), wide.bfloat16())
    assert fp8_gemm_nt(*a, *b).dtype == torch.bfloat16


@pytest.mark.parametrize(("m", "n", "k"), [(5, 16, 0), (0, 16, 128), (5, 0, 128), (0, 0, 0)])
def test_empty_dimensions(m, n, k):
    a, b = make_inputs(m, n, k)
    for out in (fp8_gemm_nt(*a, *b), dequantized_product(*a, *b), product_scale(*a, *b)):
        assert out.shape == (m, n)
        assert (out == 0).all()


def test_any_strides():
    (a, sa), (b, sb) = make_inputs(70, 264, 272)
    wide = torch.cat([a.view(torch.uint8)] * 2, 1).view(E4M3)[:, :272]
    tall = b.view(torch.uint8).t().contiguous().t().view(E4M3)
    column_major = sb.t().contiguous().t()
    broadcast = torch.ones(1, 1).expand(70, 3)
    for plain, strided in (
        ((a, sa, b, sb), (wide, m_major(sa), tall, column_major)),
        ((a, broadcast.contiguous(), b, sb), (a, broadcast, b, sb)),
    ):
        tolerance = 1e-6 * product_scale(*plain)
        want = dequantized_product(*plain)
        assert ((fp8_gemm_nt(*strided, torch.float32) - want).abs() <= tolerance).all()
        assert torch.equal(fp8_gemm_nt(*strided, torch.float32), fp8_gemm_nt(*plain, torch.float32))
        # Not bit for bit: here the order of torch's sums depends on strides and on the number of threads.
        assert ((dequantized_product(*strided) - want).abs() <= 1e-8 * tolerance).all()


def test_fp64_is_much_closer_than_fp32():
    a, b = make_inputs(64, 128, 1024)
    want = dequantized_product(*a, *b)
    assert 1e-9 < relative_error(fp8_gemm_nt(*a, *b, out_dtype=torch.float32), want) < 1e-6
    assert relative_error(dequantized_product(*a, *b, dtype=torch.float32), want) < 1e-6


def test_chunks_do_not_change_the_product(monkeypatch):
    a, b = make_inputs(300, 392, 200, "wide_scales")
    want = dequantized_product(*a, *b)
    seen = []
    plain = reference.dequantize_128x128
    monkeypatch.setattr(reference, "_CHUNK_ELEMENTS", 200 * 150)
    monkeypatch.setattr(
        reference, "dequantize_128x128", lambda q, *rest: seen.append(len(q)) or plain(q, *rest)
    )
    assert ((dequantized_product(*a, *b) - want).abs() <= 1e-14 * product_scale(*a, *b)).all()
    assert seen == [128, 128, 128, 8]


def test_product_scale_bounds_every_element_and_is_not_loose():
    for kind in ("normal", "outliers", "wide_scales"):
        a, b = make_inputs(40, 264, 700, kind)
        product, scale = dequantized_product(*a, *b), product_scale(*a, *b)
        # No k-block exceeds its own term; six at their bounds exceed the root by sqrt(6) at most.
        assert (product.abs() <= 6**0.5 * scale * (1 + 1e-9)).all()
    a, b = make_inputs(128, 128, 1024)
    ratio = product_scale(*a, *b).mean() / dequantized_product(*a, *b).std()
    assert 10 < ratio < 13


def test_product_scale_of_one_block_is_the_product_of_the_norms():
    (a, sa), (b, sb) = make_inputs(3, 8, 128)
    x, w = (a.double() * sa.double()), (b.double() * sb.double())
    assert torch.allclose(product_scale(a, sa, b, sb), x.norm(dim=1)[:, None] * w.norm(dim=1), rtol=1e-6)
