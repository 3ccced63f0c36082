"""The way of a call whose kernel ran before: what it hands to the kernel, and what it leaves to the rules."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cute_gemm import (
    quantize_1x128,
    quantize_128x128,
    quantize_both_ways,
    rms_norm_quantize_1x128,
    swiglu_quantize_1x128,
)
from cute_gemm.quantize import m_major, selection
from cute_gemm.runtime import quantizers, torch_internals
from cute_gemm.runtime.caller import caller


class Kernel:
    """Stands for one that ran before: keeps what it is called with, and says that it was launched."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.declines = False
        self.raises: type[Exception] | None = None

    def __call__(self, *given: Any) -> None:
        self.calls.append(given)
        if self.raises is not None:
            raise self.raises
        caller.launched.value = not self.declines


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """What is launched for any key of two or three dimensions, as kernels take them, on the CPU."""
    made = Kernel()
    monkeypatch.setattr(quantizers, "known", lambda key: made if 2 in key or 3 in key else None)
    monkeypatch.setattr(caller, "has_context", True)
    # It takes plain tuples only, as the one of CUDA does.
    monkeypatch.setattr(torch_internals, "empty_strided_cuda", torch._C._dynamo.guards._empty_strided_cpu)
    return made


def source(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.bfloat16)


def e4m3(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float8_e4m3fn)


WEIGHT = source(256)


def normed(x: Tensor, **named: Any) -> tuple[Tensor, Tensor]:
    return rms_norm_quantize_1x128(x, WEIGHT, 1e-5, **named)


FORMS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "rows": (quantize_1x128, ("out", "scales_out")),
    "blocks": (quantize_128x128, ("out", "scales_out")),
    "both ways": (quantize_both_ways, ("out", "scales_out", "out_t", "scales_out_t")),
    "normed": (normed, ("out", "scales_out")),
}
every_form = pytest.mark.parametrize("form", FORMS)


def results(form: str, *shape: int) -> dict[str, Tensor]:
    *matrices, m, k = shape
    blocks = -(-k // 128)
    if form == "blocks":
        return {"out": e4m3(*shape), "scales_out": torch.empty(*matrices, -(-m // 128), blocks)}
    made = {"out": e4m3(*shape), "scales_out": torch.empty(*matrices, m, blocks)}
    if form == "both ways":
        made |= {"out_t": e4m3(*matrices, k, m), "scales_out_t": torch.empty(*matrices, k, -(-m // 128))}
    return made


def all_of(made: Any) -> list[Tensor]:
    return [each for one in made for each in (one if isinstance(one, tuple) else (one,))]


@every_form
@pytest.mark.parametrize("shape", [(16, 256), (3, 16, 256)])
def test_given_results_are_handed_on_and_marked_as_changed(
    kernel: Kernel, form: str, shape: tuple[int, ...]
) -> None:
    (call, names), x, given = FORMS[form], source(*shape), results(form, *shape)
    before = [each._version for each in given.values()]
    found = all_of(call(x, **given))
    assert [id(each) for each in found] == [id(given[name]) for name in names]
    ((*operands, flags, address),) = (each[: len(each) - (form == "normed")] for each in kernel.calls)
    read = [id(x)] + ([id(WEIGHT)] if form == "normed" else [])
    assert [id(each) for each in operands] == [*read, *map(id, found)]
    assert flags == 1
    assert address == caller.address
    assert all(each._version > was for each, was in zip(found, before, strict=True))


@every_form
@pytest.mark.parametrize("m_major", [False, True])
@pytest.mark.parametrize("shape", [(16, 256), (3, 16, 256), (2, 3, 16, 256)])
def test_results_are_made_as_the_rules_would(
    kernel: Kernel, form: str, shape: tuple[int, ...], m_major: bool
) -> None:
    named = {"m_major_scales": True} if m_major else {}
    if m_major and form == "blocks":
        return
    call, x = FORMS[form][0], source(*shape)
    found = all_of(call(x, **named))
    # Matrices of matrices whose scales are to be M-major are for the rules.
    assert len(kernel.calls) == (not m_major or len(shape) < 4)
    kernel.declines = True
    for one, other in zip(found, all_of(call(x, **named)), strict=True):
        assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())


@pytest.mark.parametrize("m_major", [False, True])
def test_groups_of_rows_go_behind_what_is_launched(kernel: Kernel, m_major: bool) -> None:
    x, edges = source(160, 256), torch.zeros(4, dtype=torch.int32)
    named = {"offsets": edges, "m_major_scales": m_major}
    found = all_of(quantize_both_ways(x, **named))
    ((*operands, _, _, given),) = kernel.calls
    assert [id(each) for each in operands] == [id(x), *map(id, found)]
    assert given is edges
    assert found[3].shape == (256, 160 // 128 + 3)
    kernel.declines = True
    for one, other in zip(found, all_of(quantize_both_ways(x, **named)), strict=True):
        assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())
    for refused in ([0, 16], edges[:1], edges[:, None]):
        with pytest.raises((TypeError, ValueError), match=r"^offsets"):
            quantize_both_ways(x, offsets=refused)


@every_form
def test_dimensions_that_kernels_do_not_take_are_merged(kernel: Kernel, form: str) -> None:
    (call, _), shape = FORMS[form], (2, 3, 16, 256)
    x, given = source(*shape), results(form, *shape)
    before = [each._version for each in given.values()]
    found = all_of(call(x, **given))
    assert [id(each) for each in found] == [id(each) for each in given.values()]
    (operands,) = kernel.calls
    matrices = [each for each in operands if isinstance(each, Tensor) and each is not WEIGHT]
    assert {each.dim() for each in matrices} == {2 if form in ("rows", "normed") else 3}
    assert operands[0].data_ptr() == x.data_ptr()
    assert operands[0].shape == ((96, 256) if form in ("rows", "normed") else (6, 16, 256))
    assert all(each._version > was for each, was in zip(found, before, strict=True))
    # Not where there are gaps: that is for the rules.
    call(source(2, 3, 16, 512)[..., :256], **given)
    assert len(kernel.calls) == 1


def test_normed_rows_hand_on_what_goes_with_them(kernel: Kernel) -> None:
    x, residual, groups = source(5, 256), source(5, 256), torch.zeros(5, dtype=torch.int32)
    before = residual._version
    normed(x, residual=residual)
    normed(x, residual=residual, group_index=groups)
    normed(x, offsets=groups[:2], alignment=16)
    normed(x, rows=groups)
    assert residual._version > before
    behind = [each[6:] for each in kernel.calls]
    assert [id(each) for each in behind[0][:1]] == [id(residual)]
    assert behind[0][1:] == (1e-5,)
    assert [id(each) for each in behind[1][:2]] == [id(residual), id(groups)]
    assert behind[1][2:] == (1e-5,)
    assert behind[2][1:] == (1e-5, 16)
    assert behind[3][1:] == (1e-5,)
    with contextlib.suppress(ValueError):
        normed(x, residual=residual, rows=groups)
    assert len(kernel.calls) == 4


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
    before = given._version
    q, s = quantize_1x128(x, scales_out=given)
    assert s is given
    assert given._version > before
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
    "columns of fp32 not contiguous": {"x": torch.ones(256, 5).t()},
    "the wrong sign": {"x": _negative(5, 256)},
    "the wrong sign of scales": {"scales_out": _negative(5, 2)},
    "a derivative of scales": {"scales_out": torch.empty(5, 2).requires_grad_()},
    "a derivative": {"x": source(5, 256).requires_grad_()},
    "a flag that is none": {"power_of_two_scales": 1},
    "a layout that is no flag": {"m_major_scales": 0},
    "an alignment that is no number": {"offsets": _INDEX, "alignment": True},
    **{
        f"{one} and {other}": {one: _INDEX, other: _INDEX}
        for one, other in itertools.combinations(selection.KINDS, 2)
    },
    "an index with steps": {"rows": torch.zeros(5, 2, dtype=torch.int32)[:, 0]},
    "an index of two dimensions": {"rows": torch.zeros(5, 2, dtype=torch.int32)},
    "a list": {"x": [[1.0]]},
    "a list that selects": {"rows": [0]},
    "a result of another kind": {"out": [0]},
    "a result with steps": {"out": torch.empty(256, 5, dtype=torch.float8_e4m3fn).t()},
    "a result of a subclass": {"scales_out": torch.empty(5, 2).as_subclass(type("Sub", (Tensor,), {}))},
    "nothing": {"x": torch.empty(2, 0, 256)},
}


SLOW_OF_OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "a wrong sign": ("both ways", {"x": _negative(16, 256)}),
    "columns apart": ("both ways", {"x": source(256, 16).t()}),
    "a flag": ("both ways", {"power_of_two_scales": 1}),
    "a layout": ("both ways", {"m_major_scales": 0}),
    "a transposed result": ("both ways", {"out_t": e4m3(16, 256).t()}),
    "a result that is a list": ("both ways", {"scales_out_t": [0]}),
    "a weight": ("blocks", {"x": source(16, 256).requires_grad_()}),
    "a flag of blocks": ("blocks", {"power_of_two_scales": 1}),
    "a derivative of a residual": ("normed", {"residual": source(16, 256).requires_grad_()}),
    "columns of a residual": ("normed", {"residual": source(256, 16).t()}),
    "an alignment": ("normed", {"alignment": 1.0}),
    "two that select": ("normed", {"rows": _INDEX, "offsets": _INDEX}),
}


@pytest.mark.parametrize(("form", "given"), SLOW_OF_OTHERS.values(), ids=SLOW_OF_OTHERS)
def test_what_other_forms_leave_to_the_rules(kernel: Kernel, form: str, given: dict[str, Any]) -> None:
    given = {"x": source(16, 256)} | given
    with contextlib.suppress(TypeError, ValueError):
        FORMS[form][0](given.pop("x"), **given)
    assert not kernel.calls


@pytest.mark.parametrize("eps", [1, "much", None, torch.ones(())])
def test_eps_is_a_number_of_the_host(kernel: Kernel, eps: Any) -> None:
    with contextlib.suppress(TypeError):
        rms_norm_quantize_1x128(source(5, 256), WEIGHT, eps)
    assert [type(each[-1]) for each in kernel.calls] == [float] * (eps == 1 and type(eps) is int)


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


@pytest.mark.parametrize("raises", [None, TypeError, ValueError, RuntimeError])
@every_form
def test_a_kernel_that_declines_is_followed_by_the_rules(
    kernel: Kernel, form: str, raises: type[Exception] | None
) -> None:
    kernel.declines, kernel.raises = True, raises
    q, s, *_ = all_of(FORMS[form][0](source(5, 256)))
    assert len(kernel.calls) == 1
    torch.testing.assert_close(s, torch.full_like(s, 1 / 448), rtol=1e-4, atol=0)
    assert (q.float() == 448).all()
