"""The judges judged: planted errors are found, and honest rounding is not taken for one."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cute_gemm.quantize import dequantize_1x128, dequantize_128x128
from cute_gemm.reference import dequantized_product, fp8_gemm_nt, product_scale, term_magnitudes
from cute_gemm.testing import (
    INPUT_KINDS,
    assert_close_per_tile,
    assert_correct,
    assert_elements_close,
    element_noise,
    errors,
    gate,
    make_inputs,
    tile_errors,
    tile_limits,
    worst_element_error,
    worst_tile_error,
)

BF16, FP32 = torch.bfloat16, torch.float32
kinds = pytest.mark.parametrize("kind", INPUT_KINDS)
dtypes = pytest.mark.parametrize("dtype", [BF16, FP32], ids=["bf16", "fp32"])


def normal(m, n, seed=0):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hopper_model(a, sa, b, sb):
    """Instructions of 32 products, which they and the accumulator enter cut off 13 bits below the largest."""
    m, k = a.shape
    out = torch.zeros(m, b.shape[0])
    for block in range(sa.shape[1]):
        acc = torch.zeros_like(out)
        for start in range(block * 128, min(k, block * 128 + 128), 32):
            terms = a[:, None, start : start + 32].float() * b[None, :, start : start + 32].float()
            terms = torch.cat([terms, acc[..., None]], -1)
            exponent = torch.frexp(terms.abs().amax(-1, keepdim=True)).exponent
            unit = torch.exp2((exponent - 14).float())
            acc = (torch.trunc(terms / unit) * unit).sum(-1)
        out += acc * (sa[:, block, None] * sb[:, block].repeat_interleave(128)[: b.shape[0]])
    return out


@settings(max_examples=30, deadline=None)
@given(
    m=st.integers(0, 70),
    n=st.integers(0, 70),
    tile=st.sampled_from([1, 7, 16, 64]),
    strip=st.sampled_from([1, 2000]),
)
def test_tile_errors_match_the_definition(m, n, tile, strip):
    ref = normal(m, n)
    out = (ref + 0.01 * normal(m, n, 1)).float()
    plain = errors._STRIP_ELEMENTS
    errors._STRIP_ELEMENTS = strip
    try:
        got = tile_errors(out, ref, tile)
    finally:
        errors._STRIP_ELEMENTS = plain
    assert got.dtype == torch.float64
    assert got.shape == (-(-m // tile), -(-n // tile))
    for i in range(got.shape[0]):
        for j in range(got.shape[1]):
            x, y = (t[i * tile : (i + 1) * tile, j * tile : (j + 1) * tile].double() for t in (out, ref))
            want = 1 - 2 * (x * y).sum() / ((x * x).sum() + (y * y).sum())
            assert got[i, j].item() == pytest.approx(want.item(), abs=1e-12)
    assert worst_tile_error(out, ref, tile) == (got.max().item() if got.numel() else 0.0)


def test_tile_errors_of_zeros_and_of_what_is_not_finite():
    ref = torch.zeros(300, 300, dtype=torch.float64)
    out = torch.zeros(300, 300)
    assert (tile_errors(out, ref) == 0).all()
    out[0, 0] = 1
    assert tile_errors(out, ref)[0, 0] == 1
    ref[200, 200] = 3
    assert tile_errors(out, ref)[1, 1] == 1
    for bad in (torch.nan, torch.inf, -torch.inf):
        out[130, 299] = bad
        found = tile_errors(out, ref)
        assert found[1, 2] == torch.inf
        assert found.isinf().sum() == 1
        assert worst_tile_error(out, ref) == torch.inf


def test_tile_errors_resolve_what_cancellation_would_hide():
    ref = normal(128, 128)
    assert tile_errors(ref * (1 + 1e-10), ref).item() == pytest.approx(0.5e-20, rel=1e-3)


def test_judging_changes_nothing():
    ref, out = normal(130, 130), normal(130, 130)
    before = ref.clone(), out.clone()
    tile_errors(out, ref)
    tile_limits(ref, BF16, out)
    worst_element_error(out, ref, ref)
    assert torch.equal(ref, before[0])
    assert torch.equal(out, before[1])


def test_mismatched_shapes_are_refused():
    for out, ref in ((torch.zeros(2, 3), torch.zeros(3, 2)), (torch.zeros(2), torch.zeros(2))):
        for judge in (tile_errors, worst_tile_error, assert_close_per_tile):
            with pytest.raises(ValueError, match=r"out has shape \[2.* and ref \["):
                judge(out, ref)


def test_gate():
    assert gate(128, 128, BF16) == gate(8, 128, BF16) == 1.6e-6
    assert gate(7, 128, BF16) == 2.5e-6
    assert gate(128, 128, FP32) < 1e-6
    with pytest.raises(TypeError, match="float16"):
        gate(1, 1, torch.float16)


def test_limits_are_the_gates_on_normal_data():
    a, b = make_inputs(135, 264, 512)
    ref, scale = dequantized_product(*a, *b), product_scale(*a, *b)
    limits = tile_limits(ref, BF16, scale)
    # The last row of tiles is 7 high (7 x 128 < 1024), the last column 8 wide.
    assert limits[0].tolist() == [1.6e-6, 1.6e-6, 1.6e-6]
    assert limits[1, :2].tolist() == [2.5e-6, 2.5e-6]
    assert (tile_limits(ref, FP32, scale) == errors.FP32_TILE_LIMIT).all()


def test_limits_stay_finite_when_the_truth_is_not():
    ref = normal(128, 128)
    for bad in (torch.nan, torch.inf, 1e300):
        ref[3, 3] = bad
        assert tile_limits(ref, BF16).isfinite().all()
        with pytest.raises(AssertionError):
            assert_close_per_tile(ref.bfloat16(), ref)


@kinds
@pytest.mark.parametrize(("m", "n", "k"), [(1, 8, 16), (7, 24, 144), (65, 136, 272), (130, 72, 384)])
def test_honest_results_pass(kind, m, n, k):
    (a, sa), (b, sb) = make_inputs(m, n, k, kind)
    exact, gpu = dequantized_product(a, sa, b, sb), hopper_model(a, sa, b, sb)
    for dtype in (BF16, FP32):
        for out in (fp8_gemm_nt(a, sa, b, sb, dtype), exact.to(dtype), gpu.to(dtype)):
            assert_correct(out, a, sa, b, sb)


@dtypes
def test_tiny_outputs_pass(dtype):
    """A handful of elements: rounding alone passes the fixed gate now and then, and sums may cancel."""
    over_gate = 0
    for seed in range(60):
        (a, sa), (b, sb) = make_inputs(1, 8, 512, "one_column" if seed % 2 else "normal", seed)
        out = hopper_model(a, sa, b, sb).to(dtype)
        over_gate += assert_correct(out, a, sa, b, sb) > gate(1, 8, dtype)
    assert over_gate > 0


@kinds
@dtypes
def test_elements_of_honest_results_are_within_the_noise(kind, dtype):
    (a, sa), (b, sb) = make_inputs(33, 24, 272, kind)
    ref = dequantized_product(a, sa, b, sb)
    magnitudes = term_magnitudes(a, sa, b, sb, subnormals_as_normal=False)
    # To the bit, the sum of the magnitudes of what the truth is the sum of.
    wide = dequantize_1x128(a, sa, torch.float64), dequantize_128x128(b, sb, torch.float64)
    torch.testing.assert_close(magnitudes, wide[0].abs() @ wide[1].abs().t(), rtol=1e-14, atol=0)
    assert_elements_close(hopper_model(a, sa, b, sb).to(dtype), ref, magnitudes)
    assert_elements_close(ref.to(dtype), ref, magnitudes, noise=0.0)
    assert_elements_close(fp8_gemm_nt(a, sa, b, sb, dtype), ref, magnitudes, noise=2.0**-20)


@dtypes
def test_the_noise_of_an_element_is_what_exceeds_half_an_ulp(dtype):
    eps = torch.finfo(dtype).eps
    ref = torch.tensor([[1.0, 1.5, -1.0, 4.0, 0.0, 0.0, 3.0]], dtype=torch.float64)
    magnitudes = torch.tensor([[2.0, 2.0, 2.0, 8.0, 0.0, 1.0, 4.0]], dtype=torch.float64)
    exact = ref.to(dtype)
    assert (element_noise(exact, ref, magnitudes) == 0).all()
    # A whole ulp above: half of it is rounding.
    above = torch.nextafter(exact, torch.full_like(exact, torch.inf))
    found = element_noise(above, ref, magnitudes)
    assert found[0, :2].tolist() == pytest.approx([eps / 2 / 2, eps / 2 / 2], rel=1e-6)
    # Below a power of two ulps are half as large, and the result's counts.
    assert found[0, 2].item() == pytest.approx((eps / 2 - eps / 4) / 2, rel=1e-6)
    assert found[0, 3].item() == pytest.approx(4 * eps / 2 / 8, rel=1e-6)
    wrong = exact.clone()
    wrong[0, 4:] = torch.tensor([1e-3, 1e-3, torch.nan])
    assert element_noise(wrong, ref, magnitudes)[0, 4:].tolist() == [
        torch.inf, pytest.approx(1e-3, rel=2 * eps), torch.inf
    ]  # fmt: skip
    with pytest.raises(AssertionError, match=r"^element \(0, 4\) is 0\.00.* limit 3.906e-03 .*; 2 of 7"):
        assert_elements_close(wrong, ref, magnitudes)


def test_numbers_below_the_normal_ones_count_as_zero():
    tiny = torch.finfo(FP32).tiny
    ref = torch.tensor([[tiny / 2]], dtype=torch.float64)
    assert_elements_close(torch.zeros(1, 1), ref, ref, noise=0.0)


@functools.cache
def judged(kind, dtype):
    """A right result and what it is judged by, which no test changes: the truth, and the terms' magnitude."""
    (a, sa), (b, sb) = make_inputs(200, 264, 384, kind)
    good = fp8_gemm_nt(a, sa, b, sb, dtype)
    return good, dequantized_product(a, sa, b, sb), product_scale(a, sa, b, sb)


@dtypes
@pytest.mark.parametrize("damage", ["zero", "double", "nan", "inf", "stale", "negate"])
@pytest.mark.parametrize("kind", ["normal", "outliers", "zero_blocks", "wide_scales"])
def test_a_single_wrong_element_is_found(kind, damage, dtype):
    good, ref, scale = judged(kind, dtype)
    # Elements of typical size for their terms, in a full tile and in the ragged corner.
    typical = (ref.abs() > 0.05 * scale).nonzero()
    assert len(typical) > 1000
    for row, column in (typical[0].tolist(), typical[len(typical) // 2].tolist(), typical[-1].tolist()):
        out = good.clone()
        was = out[row, column].item()
        out[row, column] = {
            "zero": 0.0,
            "double": 2 * was,
            "nan": torch.nan,
            "inf": torch.inf,
            "stale": was + 0.1 * scale[row, column].item(),
            "negate": -was,
        }[damage]
        with pytest.raises(AssertionError, match=r"^(tile|element) \("):
            assert_close_per_tile(out, ref, scale)
    assert_close_per_tile(good, ref, scale)


def test_the_tile_measure_alone_misses_small_rows_and_the_element_measure_does_not():
    (a, sa), (b, sb) = make_inputs(128, 128, 128, "wide_scales")
    ref, scale = dequantized_product(a, sa, b, sb), product_scale(a, sa, b, sb)
    out = fp8_gemm_nt(a, sa, b, sb)
    smallest = int(sa[:, 0].argmin())
    out[smallest] = 0
    assert_close_per_tile(out, ref)
    with pytest.raises(AssertionError, match=rf"element \({smallest}, \d+\) is 0.0, want"):
        assert_close_per_tile(out, ref, scale)


def test_a_wrong_tile_is_named():
    ref = normal(300, 300)
    out = ref.bfloat16()
    out[128:256, 256:300] = 0
    with pytest.raises(AssertionError) as caught:
        assert_close_per_tile(out, ref)
    message = str(caught.value)
    assert message.startswith("tile (1, 2), rows 128:256, columns 256:300: error 1.000e+00, limit 1.600e-06")
    assert "1 of 9 tiles" in message


def test_the_worst_tile_is_the_one_furthest_over_its_own_limit():
    ref = normal(130, 128)
    out = torch.cat([ref[:128] * 1.004, ref[128:] * 1.0045]).bfloat16()
    found = tile_errors(out, ref)
    excess = found / tile_limits(ref, BF16)
    assert found[1] > found[0]
    assert excess[0] > excess[1] > 1
    with pytest.raises(AssertionError, match=r"tile \(0, 0\)"):
        assert_close_per_tile(out, ref)


@pytest.mark.parametrize("scales", ["sa", "sb"])
def test_a_wrong_scale_of_one_block_is_found(scales):
    (a, sa), (b, sb) = make_inputs(130, 264, 1040)
    right = {"sa": sa, "sb": sb}
    wrong = dict(right)
    wrong[scales] = right[scales].roll(1, 1)
    with pytest.raises(AssertionError, match=r"^tile"):
        assert_correct(fp8_gemm_nt(a, wrong["sa"], b, wrong["sb"]), a, sa, b, sb)


def test_a_missing_tail_of_k_is_found():
    (a, sa), (b, sb) = make_inputs(64, 64, 1040)
    out = fp8_gemm_nt(a[:, :1024], sa[:, :8], b[:, :1024], sb[:, :8])
    with pytest.raises(AssertionError, match=r"^tile"):
        assert_correct(out, a, sa, b, sb)


def test_worst_element_error():
    ref = torch.tensor([[1.0, 0.0, 4.0], [2.0, 3.0, 0.0]], dtype=torch.float64)
    scale = torch.tensor([[2.0, 0.0, 8.0], [4.0, 4.0, 1.0]], dtype=torch.float64)
    assert worst_element_error(ref.float(), ref, scale) == (0.0, (0, 0))
    out = ref.float()
    out[0, 2] += 1
    out[1, 1] -= 0.75
    error, where = worst_element_error(out, ref, scale)
    assert where == (1, 1)
    assert error == pytest.approx(0.75 / 4, rel=1e-6)
    out[0, 1] = 1e-30
    assert worst_element_error(out, ref, scale) == (torch.inf, (0, 1))
    out[0, 1], out[0, 0] = 0, torch.nan
    assert worst_element_error(out, ref, scale) == (torch.inf, (0, 0))
    # Half a step of bf16 costs nothing, a whole one does.
    one = torch.ones(1, 1, dtype=torch.float64)
    assert worst_element_error((one + 2.0**-7).bfloat16(), one + 2.0**-8, one)[0] == 0
    assert worst_element_error((one + 2.0**-7).bfloat16(), one, one)[0] == pytest.approx(2.0**-8)


def test_worst_element_error_looks_at_every_strip(monkeypatch):
    monkeypatch.setattr(errors, "_STRIP_ELEMENTS", 1)
    ref = normal(300, 20)
    out = ref.float()
    out[140, 3] += 1
    assert worst_element_error(out, ref, torch.ones_like(ref))[1] == (140, 3)
    assert worst_element_error(out[:0], ref[:0], ref[:0]) == (0.0, (0, 0))


# In units of 2**-9 and of 2**-10.
LOSES = (
    [
        *(-5, -1, 3, 5, -6, 0, -4, 0, 2, -6, -2, -3, 0, 2, 0, 6, -3, 3, 4, -7),
        *(0, 0, -5, 3, 4, 7, -2, -7, 7, -5, 1, 1),
    ],
    [
        *(
            576,
            22,
            224,
            -352,
            576,
            -288,
            240,
            -1536,
            -704,
            416,
            10,
            80,
            240,
            -448,
            -224,
            -208,
            576,
            -448,
            -480,
        ),
        *(44, 448, 256, 288, -1408, -576, 768, 88, 832, 56, 448, 458752, 72),
    ],
)


def test_what_a_tensor_core_loses_beside_a_large_term_with_a_subnormal_factor() -> None:
    """Found on an H200, and to the last bit what is truncated below 2**-13 of 2**-6 times 448's exponent."""
    a = torch.tensor(LOSES[0]) * 2.0**-9
    b = torch.tensor(LOSES[1]) * 2.0**-10
    one = torch.ones(1, 1)
    operands = a[None].to(torch.float8_e4m3fn), one, b[None].to(torch.float8_e4m3fn), one
    assert torch.equal(operands[0].float()[0], a)
    assert torch.equal(operands[2].float()[0], b)
    quantum = 2.0 ** (2 - 13)
    out = ((a.double() * b.double() / quantum).trunc() * quantum).sum().float().view(1, 1)
    assert out.item() == 0.82177734375, "not what the GPU gave"
    ref = dequantized_product(*operands)
    with pytest.raises(AssertionError, match="element"):
        assert_elements_close(out, ref, term_magnitudes(*operands, subnormals_as_normal=False))
    assert_elements_close(out, ref, term_magnitudes(*operands))
    ones = torch.ones(1, 32).to(torch.float8_e4m3fn)
    normal = ones, one, ones, one
    assert torch.equal(term_magnitudes(*normal), term_magnitudes(*normal, subnormals_as_normal=False))


def test_zeros_and_nans_are_no_subnormal_numbers() -> None:
    a = torch.tensor([[0.0, -0.0, torch.nan]]).to(torch.float8_e4m3fn)
    b, one = torch.ones(1, 3).to(torch.float8_e4m3fn), torch.ones(1, 1)
    assert term_magnitudes(a[:, :2], one, b[:, :2], one, subnormals_as_normal=True).item() == 0
    assert term_magnitudes(a, one, b, one, subnormals_as_normal=True).isnan().all()
