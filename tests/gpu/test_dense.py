"""Values: that a dense GEMM is right on every shape, kind of data and layout, whichever kernel is chosen."""

from collections.abc import Callable

import pytest
import torch
from tensors import DTYPES, bits

from cute_gemm import fp8_gemm_nt
from cute_gemm.reference import dequantized_product, product_scale
from cute_gemm.testing import INPUT_KINDS, assert_close_per_tile, make_inputs, poisoned

Scales = Callable[[torch.Tensor], torch.Tensor]

every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)

# Several ragged tiles both ways and 9 k-blocks, the last of them partial; and less than one tile.
SHAPES = [(333, 2120, 1040), (7, 24, 144)]


def run(
    a: torch.Tensor, sa: torch.Tensor, b: torch.Tensor, sb: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """The product in a poisoned buffer, every element of it written and nothing around it."""
    out, check = poisoned(a.shape[0], b.shape[0], dtype, "cuda")
    assert fp8_gemm_nt((a, sa), (b, sb), out) is out
    check()
    return out


def assert_right(a: torch.Tensor, sa: torch.Tensor, b: torch.Tensor, sb: torch.Tensor) -> None:
    truth, scale = dequantized_product(a, sa, b, sb), product_scale(a, sa, b, sb)
    for dtype in DTYPES.values():
        assert_close_per_tile(run(a, sa, b, sb, dtype), truth, scale)


@pytest.mark.parametrize("k", [16, 128, 144, 512, 7168])
@pytest.mark.parametrize("n", [8, 24, 576, 2112, 4096])
@pytest.mark.parametrize("m", [1, 2, 7, 63, 64, 65, 127, 128, 129, 333, 4096])
def test_shapes(m: int, n: int, k: int) -> None:
    (a, sa), (b, sb) = make_inputs(m, n, k, device="cuda")
    assert_right(a, sa, b, sb)


@pytest.mark.parametrize("shape", [*SHAPES, (65, 576, 528)], ids=str)
@pytest.mark.parametrize("kind", INPUT_KINDS)
def test_kinds_of_data(kind: str, shape: tuple[int, int, int]) -> None:
    (a, sa), (b, sb) = make_inputs(*shape, kind=kind, seed=1, device="cuda")
    assert_right(a, sa, b, sb)


@every_dtype
@pytest.mark.parametrize(("m", "n", "k"), [(0, 24, 144), (7, 0, 144), (7, 24, 0), (0, 0, 0), (300, 264, 0)])
def test_empty_extents(m: int, n: int, k: int, dtype: torch.dtype) -> None:
    (a, sa), (b, sb) = make_inputs(m, n, k, device="cuda")
    assert not run(a, sa, b, sb, dtype).any()
    fresh = fp8_gemm_nt((a, sa), (b, sb), out_dtype=dtype)
    assert (fresh.shape, fresh.dtype, fresh.device) == ((m, n), dtype, a.device)
    assert not fresh.any()


def test_results_are_allocated_beside_the_operands() -> None:
    (a, sa), (b, sb) = make_inputs(129, 264, 400, device="cuda")
    for dtype in DTYPES.values():
        out = fp8_gemm_nt((a, sa), (b, sb), out_dtype=dtype)
        assert (out.dtype, out.device, out.is_contiguous()) == (dtype, a.device, True)
        assert torch.equal(bits(out), bits(run(a, sa, b, sb, dtype)))


# Layouts: each must give the bits that contiguous tensors give. What lies around the elements is NaN.


def amid_nans(s: torch.Tensor) -> torch.Tensor:
    rows, columns = s.shape
    buffer = torch.full((rows + 3, columns + 5), torch.nan, device=s.device)
    buffer[2:-1, 1:-4] = s
    return buffer[2:-1, 1:-4]


def tma_aligned(s: torch.Tensor) -> torch.Tensor:
    """M-major with columns padded to 16 bytes, as other libraries take scales."""
    rows, columns = s.shape
    buffer = torch.full((columns, -(-rows // 4) * 4), torch.nan, device=s.device)
    buffer[:, :rows] = s.t()
    return buffer.t()[:rows]


def every_other(s: torch.Tensor) -> torch.Tensor:
    rows, columns = s.shape
    buffer = torch.full((2 * rows, 3 * columns), torch.nan, device=s.device)
    buffer[::2, ::3] = s
    return buffer[::2, ::3]


SCALE_LAYOUTS: dict[str, Scales] = {
    "M-major": lambda s: s.t().contiguous().t(),
    "M-major, TMA-aligned": tma_aligned,
    "row-major, padded, 4-byte aligned": amid_nans,
    "M-major, padded, 4-byte aligned": lambda s: amid_nans(s.t()).t(),
    "every other": every_other,
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_dtype
@pytest.mark.parametrize("layout", SCALE_LAYOUTS)
def test_scale_layouts(layout: str, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    (a, sa), (b, sb) = make_inputs(*shape, seed=2, device="cuda")
    expected = bits(run(a, sa, b, sb, dtype))
    change = SCALE_LAYOUTS[layout]
    for sa_view, sb_view in ((change(sa), sb), (sa, change(sb)), (change(sa), change(sb))):
        assert torch.equal(bits(run(a, sa_view, b, sb_view, dtype)), expected)


BROADCASTS: dict[str, Scales] = {
    "one for all": lambda s: s[:1, :1].expand_as(s),
    "one per row": lambda s: s[:, :1].expand_as(s),
    "one per k-block": lambda s: s[:1].expand_as(s),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_dtype
@pytest.mark.parametrize("broadcast", BROADCASTS)
def test_broadcast_scales(broadcast: str, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    (a, sa), (b, sb) = make_inputs(*shape, seed=3, device="cuda")
    sa, sb = BROADCASTS[broadcast](sa), BROADCASTS[broadcast](sb)
    expected = run(a, sa.contiguous(), b, sb.contiguous(), dtype)
    assert torch.equal(bits(run(a, sa, b, sb, dtype)), bits(expected))


def in_wider_rows(q: torch.Tensor, before: int, after: int) -> torch.Tensor:
    """The same e4m3 matrix inside a larger one of NaN."""
    rows, columns = q.shape
    buffer = torch.full((rows + 2, before + columns + after), 0x7F, dtype=torch.uint8, device=q.device)
    buffer[1:-1, before : before + columns] = q.view(torch.uint8)
    return buffer.view(q.dtype)[1:-1, before : before + columns]


@pytest.mark.parametrize("shape", [*SHAPES, (128, 128, 16), (1, 8, 272)], ids=str)
@every_dtype
def test_strided_rows(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    m, n, _ = shape
    (a, sa), (b, sb) = make_inputs(*shape, seed=4, device="cuda")
    expected = bits(run(a, sa, b, sb, dtype))
    for before, after in ((16, 0), (0, 48), (128, 4096)):
        a_view, b_view = in_wider_rows(a, before, after), in_wider_rows(b, after, before)
        assert torch.equal(bits(run(a_view, sa, b_view, sb, dtype)), expected)
        out, check = poisoned(m, n, dtype, "cuda", pad_rows=1, pad_cols=8 + before)
        fp8_gemm_nt((a_view, sa), (b_view, sb), out)
        check()
        assert torch.equal(bits(out), expected)


def test_a_single_row_may_have_any_stride() -> None:
    (a, sa), (b, sb) = make_inputs(1, 264, 272, seed=5, device="cuda")
    odd = a.as_strided((1, 272), (7, 1))
    out = torch.full((264,), torch.nan, dtype=torch.bfloat16, device="cuda").as_strided((1, 264), (3, 1))
    assert fp8_gemm_nt((odd, sa), (b, sb), out) is out
    assert torch.equal(bits(out), bits(run(a, sa, b, sb, torch.bfloat16)))


def test_one_buffer_may_hold_everything() -> None:
    (a, sa), (b, sb) = make_inputs(136, 128, 256, seed=6, device="cuda")
    buffer = torch.zeros(136, 1024, dtype=torch.uint8, device="cuda")
    buffer[:, :256], buffer[:128, 256:512] = a.view(torch.uint8), b.view(torch.uint8)
    e4m3 = buffer.view(a.dtype)
    out = buffer.view(torch.bfloat16)[:, 384:512]
    fp8_gemm_nt((e4m3[:, :256], sa), (e4m3[:128, 256:512], sb), out)
    assert torch.equal(bits(out), bits(run(a, sa, b, sb, torch.bfloat16)))
    assert torch.equal(buffer[:, :256], a.view(torch.uint8))
    assert not buffer[:, 512:768].any()


@every_dtype
def test_a_nan_stays_in_its_row_or_block(dtype: torch.dtype) -> None:
    m, n, k = SHAPES[0]
    (a, sa), (b, sb) = make_inputs(m, n, k, seed=7, device="cuda")
    clean = run(a, sa, b, sb, dtype)
    assert clean.isfinite().all()

    def assert_only(spoiled: tuple[slice, slice], *operands: torch.Tensor) -> None:
        out = run(*operands, dtype)
        assert out[spoiled].isnan().all()
        out[spoiled] = clean[spoiled]
        assert torch.equal(bits(out), bits(clean))

    everywhere = slice(None)
    for row in (0, 200, m - 1):
        q, s = a.clone(), sa.clone()
        q.view(torch.uint8)[row, k - 1], s[row, 3] = 0x7F, torch.nan
        assert_only((slice(row, row + 1), everywhere), q, sa, b, sb)
        assert_only((slice(row, row + 1), everywhere), a, s, b, sb)
    for column in (0, 130, n - 1):
        q = b.clone()
        q.view(torch.uint8)[column, 0] = 0x7F
        assert_only((everywhere, slice(column, column + 1)), a, sa, q, sb)
    for block in (0, 7, n // 128):
        s = sb.clone()
        s[block, -1] = torch.nan
        assert_only((everywhere, slice(block * 128, (block + 1) * 128)), a, sa, b, s)


# Offsets that 32 bits of bytes, or 31 bits of elements, do not hold


def random_e4m3(rows: int, columns: int) -> torch.Tensor:
    """Every positive number there is, and zero; large matrices are drawn as bytes."""
    return torch.randint(0, 0x7F, (rows, columns), dtype=torch.uint8, device="cuda").view(torch.float8_e4m3fn)


def need_gib(size: float) -> None:
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < size * 2**30:
        pytest.skip(f"needs {size} GiB of free GPU memory")


@pytest.mark.parametrize(
    ("m", "n", "k"), [(140_001, 24, 16_384), (24, 140_000, 16_384), (40_001, 64_008, 16)]
)
def test_matrices_beyond_2_gib(m: int, n: int, k: int) -> None:
    need_gib(20)
    torch.manual_seed(8)
    a, b = random_e4m3(m, k), random_e4m3(n, k)
    sa = torch.rand(m, -(-k // 128), device="cuda")
    sb = torch.rand(-(-n // 128), -(-k // 128), device="cuda")
    out = fp8_gemm_nt((a, sa), (b, sb))
    first = max(0, n - 200) // 128
    for rows in (slice(0, 300), slice(max(0, m - 300), m)):
        corner = fp8_gemm_nt((a[rows].clone(), sa[rows]), (b[first * 128 :].clone(), sb[first:]))
        assert corner.isfinite().all()
        assert torch.equal(bits(out[rows, first * 128 :]), bits(corner))


@pytest.mark.parametrize("of_a", [True, False])
def test_scales_8_gib_apart(of_a: bool) -> None:
    need_gib(20)
    (a, sa), (b, sb) = make_inputs(3, 264, 528, seed=9, device="cuda")
    s = sa if of_a else sb
    memory = torch.empty(2**31, device="cuda")
    far = memory.as_strided(s.shape, ((2**31 - s.shape[1]) // (s.shape[0] - 1), 1))
    far.copy_(s)
    expected = run(a, sa, b, sb, torch.bfloat16)
    actual = run(a, far, b, sb, torch.bfloat16) if of_a else run(a, sa, b, far, torch.bfloat16)
    assert torch.equal(bits(actual), bits(expected))
