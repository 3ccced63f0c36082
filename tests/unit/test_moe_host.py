"""What kernels of expert layers take, by their own host code, and what a call hands to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from host_code import holds
from torch import Tensor

from cute_gemm import moe
from cute_gemm.plan.moe import FEW_CHOICES, CombineConfig, RouteConfig
from cute_gemm.runtime import cache, quantizers
from cute_gemm.runtime.caller import caller


@pytest.fixture(autouse=True)
def nothing_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, "")


def int32(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int32)


def test_choices_that_are_sorted() -> None:
    plain, weighted = RouteConfig("int32", False), RouteConfig("int64", True)
    choices, results = int32(24), (int32(24), int32(24), int32(7))
    assert holds(plain, (choices, *results), (0, 4))
    for per_token in (0, -1, 5):
        assert not holds(plain, (choices, *results), (0, per_token))
    assert not holds(plain, (choices, *results[:2], int32(1023)), (0, 4))
    assert not holds(plain, (choices, int32(23), *results[1:]), (0, 4))
    long, of_rows, weights = choices.long(), torch.zeros(24), torch.zeros(24)
    assert holds(weighted, (long, *results, of_rows), (weights, 3, 4))
    assert not holds(weighted, (choices, *results, of_rows), (weights, 3, 4))
    assert not holds(weighted, (long, *results, of_rows), (weights[:-1], 3, 4))


def test_what_is_sorted_lies_apart_from_what_is_written() -> None:
    config = RouteConfig("int32", True)
    arguments, weights = [int32(24), int32(24), int32(24), int32(7), torch.zeros(24)], torch.zeros(24)
    assert holds(config, tuple(arguments), (weights, 0, 4))
    every = [*arguments, weights]
    for number in range(1, 5):
        for other in (*range(number), 5):
            given = list(arguments)
            given[number] = every[other].view(given[number].dtype)[: len(given[number])]
            if len(given[number]) == len(arguments[number]):
                assert not holds(config, tuple(given), (weights, 0, 4)), (number, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_rows_that_are_added(dtype: torch.dtype) -> None:
    plain, based = (CombineConfig(quantizers.NAMES[dtype], has_base) for has_base in (False, True))
    rows, out, base = (torch.zeros(count, 48, dtype=dtype) for count in (9, 4, 4))
    places = int32(12)
    wide = torch.zeros(4, 64, dtype=dtype)
    assert holds(plain, (rows, places, out))
    assert holds(plain, (rows[::2], places, wide[:, 8:56] if dtype.itemsize == 2 else wide[:, 4:52]))
    assert holds(plain, (rows[:1].expand(9, 48), places, out))
    assert holds(based, (rows, places, out), (base,))
    refused: dict[str, tuple[Any, ...]] = {
        "no choices": (rows, places[:0], out),
        "choices of some": (rows, int32(13), out),
        "no rows": (rows[:0], places, out),
        "columns that are no whole pieces": (rows[:, :44], places, torch.zeros(4, 44, dtype=dtype)),
        "other columns": (rows[:, :32], places, out),
        "rows off 16 bytes": (torch.zeros(9, 49, dtype=dtype)[:, :48], places, out),
        "a result off 16 bytes": (rows, places, wide[:, 1:49]),
        "rows of the result that are one": (rows, places, out[:1].expand(4, 48)),
        "a result in rows": (rows, places, rows[2:6]),
        "a result in places": (rows, out.view(torch.int32).view(-1)[:12], out),
    }
    if dtype is torch.float32:
        del refused["columns that are no whole pieces"]
    for what, arguments in refused.items():
        assert not holds(plain, arguments), what
    assert not holds(based, (rows, places, out), (out,))
    assert not holds(based, (rows, places, out), (base[:3],))


class Kernel:
    """Stands for one that ran before: keeps what it is called with, and says that it was launched."""

    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.calls: list[tuple[Any, ...]] = []

    def known(self, key: Any) -> Kernel:
        self.keys.append(key)
        return self

    def __call__(self, *given: Any) -> None:
        self.calls.append(given)
        caller.launched.value = True


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(quantizers, "known", made.known)
    monkeypatch.setattr(quantizers, "is_on_hopper", lambda x: True)
    monkeypatch.setattr(caller, "has_context", True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: -1)  # where the CPU's tensors are
    return made


def test_a_kernel_is_told_by_all_that_it_is_compiled_for(kernel: Kernel) -> None:
    """And by whether choices are many, as another one has more warps."""
    ids = torch.zeros(4, 2, dtype=torch.int32)
    many = torch.zeros(FEW_CHOICES, 2, dtype=torch.int32)
    for given in ((ids,), (ids.long(),), (ids, torch.ones(4, 2)), (many,)):
        moe.route(given[0], 3, *given[1:])
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        rows = torch.zeros(5, 16, dtype=dtype)
        moe.combine(rows, ids)
        moe.combine(rows, ids, base=rows[:4].clone())
    assert len(kernel.calls) == len(set(kernel.keys)) == 10


def test_what_is_handed_to_a_kernel(kernel: Kernel) -> None:
    ids, weights = torch.zeros(4, 2, dtype=torch.int32), torch.ones(4, 2)
    found = moe.route(ids, 3, weights, first_expert=5)
    assert found.weights is not None
    *tensors, flags, status, of_choices, first_expert, per_token = kernel.calls[0]
    made = (found.tokens, found.places, found.ends, found.weights)
    assert [each.data_ptr() for each in tensors] == [each.data_ptr() for each in (ids, *made)]
    assert [each.shape for each in tensors] == [(8,), (8,), (8,), (3,), (8,)]
    assert of_choices.data_ptr() == weights.data_ptr()
    assert (flags, status, first_expert, per_token) == (1, caller.address, 5, 2)
    rows, base = torch.zeros(5, 16), torch.zeros(4, 16)
    out = torch.zeros(4, 16)
    before = out._version
    assert moe.combine(rows, ids, base=base, out=out) is out
    first, places, last, *_, behind = kernel.calls[1]
    assert first is rows
    assert places.data_ptr() == ids.data_ptr()
    assert last is out
    assert behind is base
    assert out._version > before


def test_what_is_left_to_torch(kernel: Kernel) -> None:
    ids, rows = torch.zeros(4, 2, dtype=torch.int32), torch.zeros(5, 24, dtype=torch.bfloat16)
    moe.route(ids[:0], 3)
    moe.route(ids[:, :0], 3)
    moe.combine(rows[:0], ids)
    moe.combine(rows, ids[:, :0])
    moe.combine(rows[:, :20], ids)
    moe.combine(rows.t().contiguous().t(), ids)
    moe.combine(rows, ids, out=torch.zeros(4, 26, dtype=rows.dtype)[:, 1:25])
    moe.combine(rows, ids, base=torch.zeros(24, 4, dtype=rows.dtype).t())
    assert not kernel.calls
