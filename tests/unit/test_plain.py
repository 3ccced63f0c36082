"""Tensors are compared with those of calls that were in order, and each that is not is found all the same."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from test_quantize_fast_path import FORMS, SLOW, SLOW_OF_OTHERS, e4m3, every_form, kernel, results, source
from torch import Tensor
from torch.autograd import forward_ad

from cute_gemm import quantize_1x128, rms_norm_quantize_1x128
from cute_gemm.quantize import m_major
from cute_gemm.runtime import plain, torch_internals

__all__ = ["kernel"]


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked one by one."""
    asked: list[Any] = []

    def note(x: Any, is_recorded: bool) -> bool:
        asked.append(x)
        return really(x, is_recorded)

    really = plain._is_plain
    monkeypatch.setattr(plain, "_is_plain", note)
    return asked


def in_order(name: str, value: Any) -> Any:
    """What could be there in place of ``value``, as the same argument of a call of 5 or 16 rows."""
    rows = 16 if isinstance(value, Tensor) and 16 in value.shape else 5
    if name in ("x", "residual"):
        return torch.ones(rows, 256, dtype=value.dtype if isinstance(value, Tensor) else torch.bfloat16)
    made = {"out": e4m3(rows, 256), "scales_out": torch.ones(rows, 2)}
    made |= {"out_t": e4m3(256, 16), "scales_out_t": torch.ones(256, 1)}
    if name in made:
        return made[name]
    if name in ("rows", "group_index", "valid_rows", "offsets"):
        return torch.zeros(rows, dtype=torch.int32)
    return 1 if name == "alignment" else False


CASES = {of: ("rows", given) for of, given in SLOW.items()} | SLOW_OF_OTHERS


@pytest.mark.parametrize(("form", "given"), CASES.values(), ids=CASES)
def test_what_is_left_to_the_rules_is_so_behind_calls_in_order(
    kernel: Any, form: str, given: dict[str, Any]
) -> None:
    call = FORMS[form][0]
    rows = 5 if form == "rows" else 16
    if len({*given} & {"rows", "valid_rows", "group_index", "offsets"}) > 1:
        return
    first = {"x": source(rows, 256)} | {name: in_order(name, value) for name, value in given.items()}
    for _ in range(2):
        call(first["x"], **{name: value for name, value in first.items() if name != "x"})
    assert len(kernel.calls) == 2
    then = {"x": source(rows, 256)} | given
    with contextlib.suppress(TypeError, ValueError):
        call(then.pop("x"), **then)
    assert len(kernel.calls) == 2


@every_form
@pytest.mark.parametrize("is_given", [True, False])
def test_tensors_of_a_kind_are_looked_at_once(
    kernel: Any, looked_at: list[Any], form: str, is_given: bool
) -> None:
    call = FORMS[form][0]
    for m, k in ((16, 256), (32, 256), (16, 512)):
        if form == "normed" and k != 256:
            continue
        call(source(m, k), **(results(form, m, k) if is_given else {}))
        looked_at.clear() if len(kernel.calls) == 1 and looked_at else None
    assert not looked_at
    assert len(kernel.calls) == 2 + (form != "normed")


def test_scales_are_of_a_kind_however_they_are_laid_out(kernel: Any, looked_at: list[Any]) -> None:
    x, out = source(8, 256), e4m3(8, 256)
    for scales in (torch.empty(8, 2), m_major(torch.ones(8, 2)), torch.empty(8, 2, 2)[..., 0]):
        quantize_1x128(x, out=out, scales_out=scales)
    assert len(kernel.calls) == 3
    assert len(looked_at) == 3


def test_a_parameter_is_asked_for_its_derivative_in_each_grad_mode(kernel: Any) -> None:
    x, weight = source(5, 256), torch.nn.Parameter(source(256))
    for _ in range(2):
        with torch.no_grad():
            rms_norm_quantize_1x128(x, weight)
        with pytest.raises(ValueError, match="weight requires a gradient"):
            rms_norm_quantize_1x128(x, weight)
    assert len(kernel.calls) == 2


def test_modes_of_torch_are_seen_behind_a_call_in_order(kernel: Any) -> None:
    x = source(5, 256)

    def inside(y: Tensor) -> Tensor:
        for each in (x, y.detach(), y):
            with contextlib.suppress(ValueError):
                quantize_1x128(each)
        return y.float().sum()

    quantize_1x128(x)
    torch.func.grad(inside)(x)
    torch.func.vmap(inside)(source(3, 5, 256))
    with forward_ad.dual_level():
        inside(forward_ad.make_dual(x, x))
    assert len(kernel.calls) == 1


def test_the_current_device_is_asked_for_each_time(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "several_devices", lambda: True)
    for current, calls in ((-1, 1), (0, 1), (-1, 2)):  # -1 stands for the CPU
        monkeypatch.setattr(torch.cuda, "current_device", lambda current=current: current)
        quantize_1x128(source(5, 256))
        assert len(kernel.calls) == calls


def test_few_kinds_are_kept(kernel: Any, looked_at: list[Any]) -> None:
    """Each that is looked at is in order; so they take turns at no cost but that of looking."""
    weights = [source(256), torch.nn.Parameter(source(256), requires_grad=False)]
    with torch.inference_mode():
        made = [each.clone() for each in weights]
    calls = [(x, weight) for x in (source(5, 256), made[0].expand(5, 256)) for weight in (*weights, *made)]
    for _ in range(3):
        for x, weight in calls:
            rms_norm_quantize_1x128(x, weight)
    assert len(kernel.calls) == 3 * len(calls)
    ((_, kinds),) = [(way, kinds) for way, kinds in plain._seen.items() if way[0] is kernel]
    assert len(kinds) == plain.MOST_KINDS
    assert len(looked_at) < 2 * len(kernel.calls)
    plain.forget()
    assert not plain._seen


def test_a_kind_that_not_even_its_own_tensors_are_of_is_not_kept(kernel: Any) -> None:
    """A vector of one element has any stride, and is contiguous all the same."""
    index = torch.zeros(1, 7, dtype=torch.int32)[:, 0]
    plain.forget()
    for _ in range(2 * plain.MOST_KINDS):
        quantize_1x128(source(1, 256), group_index=index)
    assert len(kernel.calls) == 2 * plain.MOST_KINDS
    assert not plain._seen
    quantize_1x128(source(1, 256), group_index=torch.zeros(1, dtype=torch.int32))
    assert [len(kinds) for kinds in plain._seen.values()] == [1]


@pytest.mark.parametrize("lacks", ["guards", "levels", "transforms"])
def test_where_torch_cannot_tell_each_tensor_is_looked_at(
    kernel: Any, looked_at: list[Any], monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    if lacks == "guards":
        monkeypatch.setattr(torch_internals, "_guards", None)
    elif lacks == "levels":
        monkeypatch.setattr(plain, "forward_mode_may_be_active", torch_internals._unknown)
    else:
        monkeypatch.setattr(torch_internals, "_transforms_are_active", torch_internals._unknown)
    for _ in range(3):
        q, _ = quantize_1x128(source(5, 256))
        assert q.shape == (5, 256)
    assert (len(kernel.calls), len(looked_at)) == ((3, 3) if lacks == "guards" else (0, 0))
