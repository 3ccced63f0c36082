"""Scales of A that TMA can load: public operations take a kernel in which it does, and give the same bits."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from groups import Problem, every_layout, run
from tensors import DTYPES, bits, m_major_amid_nans, problem_here
from torch import Tensor

from cute_gemm import fp8_gemm_nt
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import MASKED, OFFSETS, Layout
from cute_gemm.quantize import m_major
from cute_gemm.runtime import launcher, selection
from cute_gemm.testing import make_inputs, poisoned

every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)

# Ragged tiles both ways and 9 k-blocks, the last of them partial; a single k-block; whole groups of four.
SHAPES = [(1000, 2120, 1040), (1000, 2120, 128), (1001, 2120, 1024)]
SIZES = [300, 0, 333, 129]


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], set[bool]]]:
    """Whether the kernels that were launched since it was last asked read scales from their stages."""
    launched: set[tuple[object, int]] = set()
    monkeypatch.setattr(selection, "_launched", launched)
    launcher.forget()

    def ask() -> set[bool]:
        # Quantisers are kernels, too.
        found = {of.tma_scales for of, _ in launched if isinstance(of, KernelConfig)}
        launched.clear()
        launcher.forget()
        return found

    yield ask
    launcher.forget()


def k_blocks_outermost(sa: Tensor) -> Tensor:
    """[G, capacity, K / 128] from memory [K / 128, G, capacity]: groups lie between k-blocks."""
    return sa.permute(2, 0, 1).contiguous().permute(1, 2, 0)


ALIGNED: dict[str, Callable[[Tensor], Tensor]] = {
    "M-major": lambda sa: m_major_amid_nans(sa, 0, 28),
    "M-major, from inside a buffer on": lambda sa: m_major_amid_nans(sa, 12, 16),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "row-major": lambda sa: sa,
    "M-major, from between 16 bytes on": lambda sa: m_major_amid_nans(sa, 3, 25),
}


def product(a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, dtype: torch.dtype) -> Tensor:
    out, check = poisoned(a.shape[0], b.shape[0], dtype, "cuda")
    fp8_gemm_nt((a, sa), (b, sb), out)
    check()
    return out


@every_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dense(shape: tuple[int, int, int], dtype: torch.dtype, staged: Callable[[], set[bool]]) -> None:
    (a, sa), (b, sb) = make_inputs(*shape, device="cuda")
    expected = bits(product(a, sa, b, sb, dtype))
    assert staged() == {False}
    # With a single k-block the choice may have no room for them, or none of use.
    can_come = selection.select(problem_here(*shape, out_dtype=str(dtype)[6:]), tma_scales=True).tma_scales
    assert can_come or shape[2] == 128
    for layouts, comes_by_tma in ((ALIGNED | {"padded": m_major}, can_come), (OTHERS, False)):
        for change in layouts.values():
            assert torch.equal(bits(product(a, change(sa), b, sb, dtype)), expected)
            assert staged() == {comes_by_tma}


def test_scales_that_are_the_same_for_all_k_blocks_are_loaded(staged: Callable[[], set[bool]]) -> None:
    (a, sa), (b, sb) = make_inputs(*SHAPES[0], device="cuda")
    same = m_major(sa)[:, :1].expand(sa.shape)
    expected = bits(product(a, same.contiguous(), b, sb, torch.bfloat16))
    staged()
    assert torch.equal(bits(product(a, same, b, sb, torch.bfloat16)), expected)
    assert staged() == {False}


@every_dtype
@every_layout
def test_grouped(layout: Layout, dtype: torch.dtype, staged: Callable[[], set[bool]]) -> None:
    problem = Problem.make(SIZES, 2056, 1040)
    inputs = problem.arranged(layout)
    (a, sa), options = inputs.lhs, {"expected_rows": 300} if layout is MASKED else {}
    aligned = ALIGNED | ({"k-blocks outermost": k_blocks_outermost} if layout is MASKED else {})
    for layouts, is_aligned in ((aligned, True), (OTHERS, False)):
        for change in layouts.values():
            changed = replace(inputs, lhs=(a, change(sa)))
            problem.assert_equals(run(layout, changed, dtype, **options), inputs)
            # Rows of offsets begin anywhere, where TMA cannot.
            assert staged() == {is_aligned and layout is not OFFSETS}
