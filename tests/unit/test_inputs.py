"""Generated operands fit together, are what they are called, and never multiply to zeros."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cute_gemm.quantize import dequantize_1x128, dequantize_128x128
from cute_gemm.reference import product_scale
from cute_gemm.testing import INPUT_KINDS, make_inputs


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 200),
    n=st.integers(1, 200),
    k=st.integers(1, 400),
    kind=st.sampled_from(INPUT_KINDS),
    seed=st.integers(0, 5),
)
def test_inputs_fit_together_and_their_product_is_not_zero(m, n, k, kind, seed):
    (a, sa), (b, sb) = make_inputs(m, n, k, kind, seed)
    assert a.shape == (m, k)
    assert b.shape == (n, k)
    assert a.dtype == b.dtype == torch.float8_e4m3fn
    assert dequantize_1x128(a, sa).isfinite().all()
    assert dequantize_128x128(b, sb).isfinite().all()
    assert product_scale(a, sa, b, sb).any()


@pytest.mark.parametrize("kind", INPUT_KINDS)
def test_the_product_of_a_single_block_is_not_zero(kind):
    a, b = make_inputs(1, 8, 16, kind)
    assert product_scale(*a, *b).any()


def test_inputs_are_repeatable_and_differ_by_seed():
    def codes(**kwargs):
        (a, _), (b, _) = make_inputs(8, 8, 256, **kwargs)
        return torch.cat([a, b]).view(torch.uint8).tolist()

    assert codes(seed=1) == codes(seed=1)
    assert codes(seed=1) != codes(seed=2)
    with pytest.raises(ValueError, match="kind is 'zeros'; want one of normal, "):
        make_inputs(1, 8, 16, "zeros")


@pytest.mark.parametrize("kind", INPUT_KINDS)
def test_empty_inputs(kind):
    for m, n, k in ((0, 8, 16), (4, 0, 16), (4, 8, 0)):
        (a, sa), (b, sb) = make_inputs(m, n, k, kind)
        assert (a.shape, b.shape) == ((m, k), (n, k))
        assert (sa.shape, sb.shape) == ((m, -(-k // 128)), (-(-n // 128), -(-k // 128)))


def test_each_kind_is_what_it_says():
    def wide(kind):
        (a, sa), (b, sb) = make_inputs(256, 256, 640, kind)
        return dequantize_1x128(a, sa), dequantize_128x128(b, sb), sa, sb

    x, w, _, _ = wide("normal")
    assert x.std() == pytest.approx(1, rel=0.05)
    assert w.std() == pytest.approx(1, rel=0.05)

    x, w, _, _ = wide("outliers")
    large = x.unflatten(1, (5, 128)).abs() > 20 * x.abs().median()
    assert large.sum(2).float().mean() == pytest.approx(1, abs=0.1)
    assert (w.abs() > 20 * x.abs().median()).sum() == pytest.approx(10, abs=2)

    x, w, sa, sb = wide("zero_blocks")
    for operand, scales, height in ((x, sa, 1), (w, sb, 128)):
        blocks = operand.unflatten(1, (-1, 128)).unflatten(0, (-1, height)).abs().amax((1, 3))
        assert 0.3 < (blocks == 0).float().mean() < 0.7
        assert torch.equal(blocks == 0, scales == 1)

    _, _, sa, sb = wide("wide_scales")
    assert 2.0**36 < sa.max() / sa.min() < 2.0**44
    assert sb.max() / sb.min() > 2.0**10

    x, w, _, _ = wide("one_row")
    assert x.any(1).sum() == 1
    assert w.any(1).all()
    x, w, _, _ = wide("one_column")
    assert w.any(1).sum() == 1
    assert x.any(1).all()
