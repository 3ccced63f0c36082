"""Quantisation against the definition, element by element, and at the edges of what the dtypes can hold."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

import cute_gemm
from cute_gemm.quantize import (
    dequantize_1x128,
    dequantize_128x128,
    m_major,
    quantize_1x128,
    quantize_128x128,
    scale_blocks,
)
from cute_gemm.runtime.launcher import tma_can_load

E4M3 = torch.float8_e4m3fn
TINY = 2.0**-126
both = pytest.mark.parametrize(
    ("quantize", "dequantize"),
    [(quantize_1x128, dequantize_1x128), (quantize_128x128, dequantize_128x128)],
    ids=["1x128", "128x128"],
)
dimension = st.integers(0, 300)


def blocks_of(x, height):
    """Each block of ``height`` x 128, with its row and column in the grid of blocks."""
    for i in range(-(-x.shape[0] // height)):
        for j in range(-(-x.shape[1] // 128)):
            yield i, j, x[i * height : (i + 1) * height, j * 128 : (j + 1) * 128]


def normal(m, n, seed=0, dtype=torch.float32):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize(("length", "blocks"), [(0, 0), (1, 1), (127, 1), (128, 1), (129, 2), (7168, 56)])
def test_scale_blocks(length, blocks):
    assert scale_blocks(length) == blocks


@settings(max_examples=30, deadline=None)
@given(
    m=dimension, k=dimension, seed=st.integers(0, 99), height=st.sampled_from([1, 128]), power=st.booleans()
)
def test_matches_the_definition_block_by_block(m, k, seed, height, power):
    x = normal(m, k, seed) * torch.exp2(normal(m, k, seed + 1) * 4)
    q, s = (quantize_1x128 if height == 1 else quantize_128x128)(x, power_of_two_scales=power)
    assert q.dtype == E4M3
    assert q.shape == x.shape
    assert q.is_contiguous()
    assert s.dtype == torch.float32
    assert s.shape == (-(-m // height), -(-k // 128))
    assert s.is_contiguous()
    for i, j, block in blocks_of(x, height):
        want = block.abs().max() / torch.tensor(448.0)
        if power:
            want = torch.exp2(torch.ceil(torch.log2(want.double()))).float()
        assert s[i, j] == want
    for i, j, block in blocks_of(x, height):
        rows, columns = slice(i * height, (i + 1) * height), slice(j * 128, (j + 1) * 128)
        assert torch.equal(
            q[rows, columns].float(), (block * (1 / s[i, j])).clamp(-448, 448).to(E4M3).float()
        )


@both
@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_round_trip_within_half_a_step(quantize, dequantize, power, dtype):
    x = normal(200, 333, dtype=dtype)
    q, s = quantize(x, power_of_two_scales=power)
    back = dequantize(q, s)
    assert back.dtype == torch.float32
    step = dequantize(torch.full_like(q.float(), 2.0**-9).to(E4M3), s)
    # Three mantissa bits: half a step is 2**-4 of the value, or of the smallest step below 2**-6.
    assert ((back - x.float()).abs() <= x.float().abs() * 2**-4 * 1.0001 + step / 2).all()


@both
def test_largest_value_survives(quantize, dequantize):
    x = normal(5, 300)
    x[2, 77] = -9.0
    q, s = quantize(x)
    assert q[2, 77] == -448
    assert dequantize(q, s)[2, 77] == pytest.approx(-9.0, rel=1e-6)


@both
def test_power_of_two_scales_round_up_and_only_when_needed(quantize, dequantize):
    for exponent in (-100, -7, 0, 5, 100):
        x = torch.zeros(1, 128)
        x[0, 3] = 448.0 * 2.0**exponent
        assert quantize(x, power_of_two_scales=True)[1].item() == 2.0**exponent
        x[0, 3] = 448.0 * 2.0**exponent * 1.001
        q, s = quantize(x, power_of_two_scales=True)
        assert s.item() == 2.0 ** (exponent + 1)
        assert q.float().abs().max() == 224


@both
@pytest.mark.parametrize("power", [False, True])
def test_zero_blocks_have_scale_one(quantize, dequantize, power):
    x = normal(130, 260)
    x[:128, :128] = 0
    q, s = quantize(x, power_of_two_scales=power)
    assert s[0, 0] == 1
    assert (q.float()[:128, :128] == 0).all()
    assert (s[0, 1:] != 1).all()
    assert (quantize(torch.zeros(3, 200))[1] == 1).all()


@both
@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize(
    "amax", [2.0**-149, 2.0**-140, 1e-41, TINY, 447 * TINY, 448 * TINY, 449 * TINY, 1e-30]
)
def test_tiny_blocks_stay_finite_and_are_not_saturated(quantize, dequantize, power, amax):
    x = torch.zeros(2, 128)
    x[0, :3] = torch.tensor([amax, -amax / 2, amax / 3])
    x[1, 0] = amax
    q, s = quantize(x, power_of_two_scales=power)
    assert (s >= TINY).all()
    assert s.isfinite().all()
    back = dequantize(q, s, torch.float64)
    assert back.isfinite().all()
    assert ((back - x.double()).abs() <= x.double().abs() / 16 + 2.0**-10 * s[0, 0].double()).all()


@both
@pytest.mark.parametrize("power", [False, True])
def test_huge_values_give_finite_codes_and_scales(quantize, dequantize, power):
    x = torch.full((1, 128), torch.finfo(torch.float32).max)
    q, s = quantize(x, power_of_two_scales=power)
    assert s.isfinite().all()
    assert (q.float() > 0).all()
    assert dequantize(q, s, torch.float64)[0, 0] == pytest.approx(3.4e38, rel=1 / 16)


@both
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("power", [False, True])
def test_a_block_that_is_not_finite_comes_back_as_nan_and_the_others_untouched(
    quantize, dequantize, bad, power
):
    x = normal(256, 256)
    clean_q, clean_s = quantize(x, power_of_two_scales=power)
    x[3, 130] = bad
    q, s = quantize(x, power_of_two_scales=power)
    poisoned = torch.zeros_like(x, dtype=torch.bool)
    poisoned[slice(3, 4) if quantize is quantize_1x128 else slice(0, 128), 128:] = True
    assert torch.equal(q.float().isnan(), poisoned)
    assert torch.equal(dequantize(q, s).isnan(), poisoned)
    assert s.isnan().sum() == 1
    assert torch.equal(q.float()[~poisoned], clean_q.float()[~poisoned])
    assert torch.equal(s[~s.isnan()], clean_s[~s.isnan()])


@both
@pytest.mark.parametrize("shape", [(0, 0), (0, 256), (5, 0), (0, 13)])
def test_empty(quantize, dequantize, shape):
    q, s = quantize(torch.zeros(shape))
    assert q.shape == shape
    rows = shape[0] if quantize is quantize_1x128 else scale_blocks(shape[0])
    assert s.shape == (rows, scale_blocks(shape[1]))
    assert dequantize(q, s).shape == shape


@pytest.mark.parametrize("shape", [(0,), (2, 3, 0), (2, 0, 128), (0, 3, 130)])
def test_empty_of_other_than_two_dimensions(shape):
    q, s = quantize_1x128(torch.zeros(shape))
    assert q.shape == shape
    assert s.shape == (*shape[:-1], scale_blocks(shape[-1]))
    assert dequantize_1x128(q, s).shape == shape


@both
def test_strided_input(quantize, dequantize):
    x = normal(300, 260)
    want = quantize(x)
    for same in (x.t().contiguous().t(), torch.cat([x, x], 1)[:, :260], torch.nn.Parameter(x).detach()):
        q, s = quantize(same)
        assert torch.equal(q.view(torch.uint8), want[0].view(torch.uint8))
        assert torch.equal(s, want[1])
    scales = torch.stack([want[1], want[1]], -1)[..., 0]
    assert not scales.is_contiguous()
    assert torch.equal(dequantize(want[0], scales), dequantize(*want))


def test_more_and_fewer_dimensions_than_two():
    x = normal(6, 200).view(2, 3, 200)
    q, s = quantize_1x128(x)
    flat_q, flat_s = quantize_1x128(x.view(6, 200))
    assert q.shape == x.shape
    assert s.shape == (2, 3, 2)
    assert torch.equal(s.view(6, 2), flat_s)
    assert torch.equal(dequantize_1x128(q, s).view(6, 200), dequantize_1x128(flat_q, flat_s))
    row_q, row_s = quantize_1x128(x[0, 0])
    assert row_s.shape == (2,)
    assert torch.equal(row_q.float(), q[0, 0].float())


@pytest.mark.parametrize("shape", [(3, 130, 200), (2, 3, 8, 130), (0, 8, 16), (3, 0, 16), (3, 8, 0)])
def test_matrices_of_several_groups_are_quantised_one_by_one(shape):
    x = normal(math.prod(shape[:-1]), shape[-1]).view(shape)
    q, s = quantize_128x128(x, power_of_two_scales=True)
    assert q.shape == shape
    assert s.shape == (*shape[:-2], scale_blocks(shape[-2]), scale_blocks(shape[-1]))
    assert q.is_contiguous()
    assert s.is_contiguous()
    back = dequantize_128x128(q, s)
    for group in itertools.product(*map(range, shape[:-2])):
        want_q, want_s = quantize_128x128(x[group], power_of_two_scales=True)
        assert torch.equal(q[group].view(torch.uint8), want_q.view(torch.uint8))
        assert torch.equal(s[group], want_s)
        assert torch.equal(back[group], dequantize_128x128(want_q, want_s))


@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dequantize_dtypes(quantize, dequantize, dtype):
    q, s = quantize(normal(150, 150))
    got = dequantize(q, s, dtype)
    exact = dequantize(q, s, torch.float64)
    rows = s if quantize is quantize_1x128 else s.repeat_interleave(128, 0)[:150]
    wide = rows.double().repeat_interleave(128, 1)[:, :150]
    assert torch.equal(exact, q.double() * wide)
    assert got.dtype == dtype
    want = exact if dtype == torch.float64 else exact.float().to(dtype)
    assert torch.equal(got, want)


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("m", [1, 4, 7, 129])
def test_m_major(m, blocks):
    s = normal(m, blocks)
    view = m_major(s)
    assert torch.equal(view, s)
    assert view.shape == s.shape
    rows = (m + 3) // 4 * 4
    assert view.stride() == (1, rows)
    storage = view.as_strided((blocks, rows), (rows, 1))
    assert (storage[:, m:] == 0).all()
    assert tma_can_load(view)


@pytest.mark.parametrize("is_row_major", [False, True])
@pytest.mark.parametrize(("groups", "capacity", "blocks"), [(1, 4, 3), (3, 7, 2), (2, 130, 1), (4, 1, 1)])
def test_m_major_of_groups(groups, capacity, blocks, is_row_major):
    s = normal(groups * capacity, blocks).view(groups, capacity, blocks)
    s = s if is_row_major else s.transpose(0, 2).contiguous().transpose(0, 2)
    view = m_major(s)
    assert torch.equal(view, s)
    rows = (capacity + 3) // 4 * 4
    assert view.stride() == (blocks * rows, 1, rows)
    assert view.stride(0) % 4 == 0
    storage = view.as_strided((groups, blocks, rows), (blocks * rows, rows, 1))
    assert (storage[..., capacity:] == 0).all()
    assert tma_can_load(view)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 4, 3), (2, 0, 3), (2, 4, 0)])
def test_m_major_of_nothing(shape):
    assert m_major(torch.zeros(shape)).shape == shape


def test_m_major_is_public():
    assert cute_gemm.m_major is m_major


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: quantize_1x128([1.0]), TypeError, "x is a builtins.list; wanted a torch.Tensor"),
        (
            lambda: quantize_1x128(torch.zeros(2, 2, dtype=torch.float64)),
            TypeError,
            "x has dtype torch.float64; wanted torch.float32, torch.bfloat16 or torch.float16: `x.to",
        ),
        (
            lambda: quantize_1x128(torch.zeros(2, 2, dtype=torch.int32)),
            TypeError,
            "x has dtype torch.int32; wanted",
        ),
        (lambda: quantize_1x128(torch.tensor(1.0)), ValueError, "x has no dimension; wanted"),
        (lambda: quantize_128x128(None), TypeError, "w is None; wanted"),
        (
            lambda: quantize_128x128(torch.zeros(2, 2).to(E4M3)),
            TypeError,
            "w has dtype torch.float8_e4m3fn; wanted",
        ),
        (
            lambda: quantize_128x128(torch.zeros(2)),
            ValueError,
            r"w has shape \(2,\); wanted \[\.\.\., N, K\]: `w\[None\]`",
        ),
        (
            lambda: m_major(torch.zeros(2)),
            ValueError,
            r"s has shape \(2,\); wanted \[M, ceil\(K / 128\)\] or \[G, capacity, ceil",
        ),
        (lambda: m_major(torch.zeros(2, 2, 2, 2)), ValueError, r"s has shape \(2, 2, 2, 2\); wanted"),
        (lambda: m_major(torch.zeros(2, 2).half()), TypeError, "s has dtype torch.float16; wanted .*`s.to"),
        (lambda: m_major(3), TypeError, "s is a builtins.int; wanted a torch.Tensor"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def freed(x):
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


HARD_TO_TAKE = {
    "sparse": (lambda x: x.to_sparse(), r"has layout torch\.sparse_coo.*to_dense\(\)`"),
    "sparse rows": (lambda x: x.to_sparse_csr(), r"has layout torch\.sparse_csr"),
    "sparse blocks": (lambda x: x.to_sparse_bsr((2, 2)), r"has layout torch\.sparse_bsr"),
    "opaque": (lambda x: x.to_mkldnn(), r"has layout torch\._mkldnn"),
    "nested": (lambda x: torch.nested.nested_tensor([x, x]), "is nested.* one call for each"),
    "jagged": (lambda x: torch.nested.nested_tensor([x], layout=torch.jagged), "is nested"),
    "uninitialised": (
        lambda x: torch.nn.UninitializedParameter(requires_grad=False),
        r"is a torch\.nn\.parameter\.UninitializedParameter, which has no shape",
    ),
    "freed": (freed, "has no memory behind it"),
}


@pytest.mark.filterwarnings(r"ignore:.*(Sparse CSR|nested tensors):UserWarning")
@pytest.mark.parametrize(("make", "says"), HARD_TO_TAKE.values(), ids=HARD_TO_TAKE)
def test_what_has_no_values_in_memory_is_named(make, says):
    x = normal(4, 128)
    q = x.to(E4M3)
    for name, call in (
        ("x", quantize_1x128),
        ("w", quantize_128x128),
        ("s", m_major),
        ("s", lambda s: dequantize_1x128(q, s)),
        ("s", lambda s: dequantize_128x128(q, s)),
    ):
        with pytest.raises(ValueError, match=rf"^{name}\b.* {says}"):
            call(make(x))


@both
def test_a_quantised_tensor_and_its_scales_are_on_one_device(quantize, dequantize):
    q, s = quantize(normal(4, 256))
    with pytest.raises(ValueError, match=r"^q is on device 'meta'; wanted 'cuda'"):
        dequantize(q.to("meta"), s)
    with pytest.raises(ValueError, match=r"^s is on device 'meta'; wanted"):
        dequantize(q, s.to("meta"))
    assert dequantize(q.to("meta"), s.to("meta")).shape == q.shape


@both
@pytest.mark.parametrize("value", [1, None, torch.ones(2)], ids=repr)
def test_power_of_two_scales_is_a_bool(quantize, dequantize, value):
    with pytest.raises(TypeError, match=r"^power_of_two_scales is .*; wanted a bool"):
        quantize(normal(4, 256), power_of_two_scales=value)


@both
def test_fake_tensors_have_shapes(quantize, dequantize):
    with FakeTensorMode():
        fake = torch.empty(130, 140)
    q, s = quantize(fake, power_of_two_scales=True)
    assert (q.shape, q.dtype, s.dtype) == (fake.shape, E4M3, torch.float32)
    assert dequantize(q, s).shape == fake.shape


@pytest.mark.parametrize("dequantize", [dequantize_1x128, dequantize_128x128])
def test_bad_quantised_input_is_named(dequantize):
    q, s = torch.zeros(130, 130).to(E4M3), torch.ones(130 if dequantize is dequantize_1x128 else 2, 2)
    dequantize(q, s)
    with pytest.raises(TypeError, match=r"q has dtype torch\.float32; wanted torch\.float8_e4m3fn"):
        dequantize(q.float(), s)
    with pytest.raises(TypeError, match=r"s has dtype torch\.float64; wanted torch\.float32"):
        dequantize(q, s.double())
    with pytest.raises(TypeError, match=r"dtype is torch\.int32"):
        dequantize(q, s, torch.int32)
    with pytest.raises(ValueError, match=r"s has shape .*; wanted .* for q of shape \(130, 130\)"):
        dequantize(q, s[:, :1])
    with pytest.raises(ValueError, match="s has shape"):
        dequantize(q, torch.ones(1, 1))
    with pytest.raises(ValueError, match=r"wanted \[\.\.\., (N, )?K\]"):
        dequantize(q[0, 0], s)
