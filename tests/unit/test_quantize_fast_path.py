"""The way of a call whose kernel ran before: what it hands to the kernel, and what it leaves to the rules."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor

from cute_gemm import quantize_1x128, quantize_128x128, swiglu_quantize_1x128
from cute_gemm.quantize import m_major
from cute_gemm.runtime import quantizers
from cute_gemm.runtime.caller import caller


class Kernel:
    """Stands for one that ran before: keeps what it is called with, and says that it was launched."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.declines = False

    def __call__(self, *given: Any) -> None:
        self.calls.append(given)
        caller.launched.value = not self.declines


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """What is launched for any key, on the CPU."""
    made = Kernel()
    monkeypatch.setattr(quantizers, "known", lambda key: made)
    monkeypatch.setattr(caller, "has_context", True)
    monkeypatch.setattr(
        quantizers,
        "empty_strided_cuda",
        lambda shape, strides, dtype: torch.empty_strided(shape, strides, dtype=dtype),
    )
    return made


def source(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.bfloat16)


def test_given_results_are_handed_on_and_marked_as_changed(kernel: Kernel) -> None:
    x, q, s = source(5, 256), torch.empty(5, 256, dtype=torch.float8_e4m3fn), torch.empty(5, 2)
    before = q._version, s._version
    found = quantize_1x128(x, out=q, scales_out=s)
    assert found[0] is q
    assert found[1] is s
    ((*operands, flags, address),) = kernel.calls
    assert [id(each) for each in operands] == [id(x), id(q), id(s)]
    assert flags == 1
    assert address == caller.address
    assert (q._version, s._version) > before


@pytest.mark.parametrize("shape", [(5, 256), (5, 16), (2, 5, 256), (3, 2, 5, 256), (256,)])
def test_new_results_are_contiguous(kernel: Kernel, shape: tuple[int, ...]) -> None:
    q, s = quantize_1x128(source(*shape))
    assert len(kernel.calls) == 1
    assert q.shape == shape
    assert q.dtype is torch.float8_e4m3fn
    assert s.shape == (*shape[:-1], -(-shape[-1] // 128))
    assert s.dtype is torch.float32
    assert q.is_contiguous()
    assert s.is_contiguous()


def test_one_result_may_be_given(kernel: Kernel) -> None:
    x, given = source(5, 256), torch.empty(5, 2)
    q, s = quantize_1x128(x, scales_out=given)
    assert s is given
    assert q.shape == x.shape
    assert [id(each) for each in kernel.calls[0][:3]] == [id(x), id(q), id(s)]


def test_scales_are_laid_out_as_asked(kernel: Kernel) -> None:
    _, s = quantize_1x128(source(5, 384), m_major_scales=True)
    assert len(kernel.calls) == 1
    assert s.stride() == m_major(torch.ones(5, 3)).stride()


@pytest.mark.parametrize("interleaved", [False, True])
def test_swiglu_halves_columns(kernel: Kernel, interleaved: bool) -> None:
    q, s = swiglu_quantize_1x128(source(5, 512), interleaved=interleaved)
    assert len(kernel.calls) == 1
    assert q.shape == (5, 256)
    assert s.shape == (5, 2)


def test_what_selects_rows_comes_behind(kernel: Kernel) -> None:
    x, index = source(5, 256), torch.tensor([4, 0, 1, -1, 2, 2, 3], dtype=torch.int32)
    q, s = quantize_1x128(x, rows=index)
    assert q.shape == (7, 256)
    assert s.shape == (7, 2)
    assert kernel.calls[0][5] is index
    ends = torch.tensor([2, 5], dtype=torch.int32)
    q, _ = quantize_1x128(x, offsets=ends, alignment=2)
    assert q.shape == x.shape
    assert kernel.calls[1][5] is ends
    assert kernel.calls[1][6] == 2


def test_weights(kernel: Kernel) -> None:
    q, s = quantize_128x128(source(3, 130, 256))
    assert len(kernel.calls) == 1
    assert q.shape == (3, 130, 256)
    assert s.shape == (3, 2, 2)


def _negative(*shape: int) -> Tensor:
    """The imaginary part of a conjugate: memory with the other sign."""
    return torch.ones(*shape, dtype=torch.complex64).conj().imag.as_strided(shape, (shape[1], 1))


_INDEX = torch.zeros(5, dtype=torch.int32)

SLOW: dict[str, dict[str, Any]] = {
    "columns not contiguous": {"x": source(256, 5).t()},
    "the wrong sign": {"x": _negative(5, 256)},
    "a derivative": {"x": source(5, 256).requires_grad_()},
    "a flag that is none": {"power_of_two_scales": 1},
    "a layout that is no flag": {"m_major_scales": 0},
    "an alignment that is no number": {"offsets": _INDEX, "alignment": True},
    "two that select": {"rows": _INDEX, "group_index": _INDEX},
    "an index with steps": {"rows": torch.zeros(5, 2, dtype=torch.int32)[:, 0]},
    "an index of two dimensions": {"rows": torch.zeros(5, 2, dtype=torch.int32)},
    "a list": {"x": [[1.0]]},
    "a list that selects": {"rows": [0]},
    "a result of another kind": {"out": [0]},
    "a result with steps": {"out": torch.empty(256, 5, dtype=torch.float8_e4m3fn).t()},
    "a result of a subclass": {"scales_out": torch.empty(5, 2).as_subclass(type("Sub", (Tensor,), {}))},
    "nothing": {"x": torch.empty(2, 0, 256)},
}


@pytest.mark.parametrize("given", SLOW.values(), ids=SLOW)
def test_what_is_left_to_the_rules(kernel: Kernel, given: dict[str, Any]) -> None:
    """They refuse it, or have torch quantise; no kernel is called."""
    given = {"x": source(5, 256)} | given
    with contextlib.suppress(TypeError, ValueError):
        quantize_1x128(given.pop("x"), **given)
    assert not kernel.calls


def test_under_forward_mode_the_rules_are_asked(kernel: Kernel) -> None:
    with torch.autograd.forward_ad.dual_level():
        quantize_1x128(source(5, 256))
    assert not kernel.calls


def test_a_kernel_that_declines_is_followed_by_the_rules(kernel: Kernel) -> None:
    kernel.declines = True
    q, s = quantize_1x128(source(5, 256))
    assert len(kernel.calls) == 1
    assert torch.equal(s, torch.full((5, 2), 1 / 448))
    assert (q.float() == 448).all()
