"""Products whose B has scales of each row: values, of what is chosen and of every kernel."""

import pytest
import torch
from tensors import DTYPES, bits, m_major_amid_nans

from cute_gemm import fp8_gemm_nt
from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import DENSE
from cute_gemm.plan.recipe import FP8_1D1D
from cute_gemm.reference import dequantized_product, product_scale
from cute_gemm.testing import INPUT_KINDS, assert_close_per_tile, make_inputs, poisoned

CONFIGS = [config for config in candidates.every_row_scaled_config() if config.layout is DENSE]
SHAPES = [(333, 2120, 1040), (7, 24, 144), (257, 136, 4096)]


def inputs(m: int, n: int, k: int, kind: str = "normal"):
    """Operands whose scales TMA can load, with NaN around those of a k-block; and the truth."""
    (a, sa), (b, sb) = make_inputs(m, n, k, kind, device="cuda", recipe=FP8_1D1D)
    truth, scale = dequantized_product(a, sa, b, sb), product_scale(a, sa, b, sb)
    return (a, m_major_amid_nans(sa, behind=3)), (b, m_major_amid_nans(sb, behind=3)), truth, scale


@pytest.mark.parametrize("k", [16, 128, 144, 528, 7168])
@pytest.mark.parametrize("n", [8, 24, 576, 2112])
@pytest.mark.parametrize("m", [1, 63, 64, 65, 129, 333, 2049])
def test_shapes(m: int, n: int, k: int) -> None:
    lhs, rhs, truth, scale = inputs(m, n, k)
    for dtype in DTYPES.values():
        out, check = poisoned(m, n, dtype, "cuda")
        assert fp8_gemm_nt(lhs, rhs, out) is out
        check()
        assert_close_per_tile(out, truth, scale)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", INPUT_KINDS)
def test_kinds_of_data(kind: str, shape: tuple[int, int, int]) -> None:
    lhs, rhs, truth, scale = inputs(*shape, kind)
    for dtype in DTYPES.values():
        out, check = poisoned(*shape[:2], dtype, "cuda")
        fp8_gemm_nt(lhs, rhs, out)
        check()
        assert_close_per_tile(out, truth, scale)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_added_once(shape: tuple[int, int, int]) -> None:
    """To the bit what the plain product gives, added by torch; what lies around is untouched."""
    lhs, rhs, *_ = inputs(*shape)
    product = fp8_gemm_nt(lhs, rhs, out_dtype=torch.float32)
    out, check = poisoned(*shape[:2], torch.float32, "cuda")
    before = torch.randn_like(product)
    out.copy_(before)
    fp8_gemm_nt(lhs, rhs, out, accumulate=True)
    check()
    assert torch.equal(out, before + product)


def test_scales_of_other_strides_are_copied() -> None:
    (a, sa), (b, sb) = make_inputs(333, 2120, 1040, device="cuda", recipe=FP8_1D1D)
    wanted = fp8_gemm_nt((a, m_major_amid_nans(sa)), (b, m_major_amid_nans(sb)))
    for lhs, rhs in (
        ((a, sa), (b, sb)),
        ((a, m_major_amid_nans(sa)), (b, sb)),
        ((a, sa), (b, m_major_amid_nans(sb))),
    ):
        for _ in range(2):
            assert torch.equal(bits(fp8_gemm_nt(lhs, rhs)), bits(wanted))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_every_kernel(config: KernelConfig) -> None:
    """Twenty times the same bits, with all multiprocessors and with few."""
    from cute_gemm.runtime import programs

    lhs, rhs, truth, scale = inputs(777, 1160, 2064)
    first = None
    for turn in range(20):
        out, check = poisoned(777, 1160, getattr(torch, config.out_dtype), "cuda")
        if config.accumulates:
            out.zero_()
        programs.launch(config, lhs, rhs, out=out, num_sms=None if turn % 2 else 8)
        check()
        if first is None:
            first = out.clone()
            assert_close_per_tile(out, truth, scale)
        assert torch.equal(bits(out), bits(first))
