"""What rules hand to a kernel that was not launched before, and what they leave to torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cute_gemm import moe, quantize_1x128, quantize_128x128, quantize_both_ways, rms_norm_quantize_1x128
from cute_gemm.runtime import quantizers


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of kernels that would be launched on a GPU that they are for; torch computes after all."""
    names: list[str] = []
    monkeypatch.setattr(quantizers, "is_on_hopper", lambda x: True)
    monkeypatch.setattr(quantizers, "known", lambda key: None)
    monkeypatch.setattr(quantizers, "launch", lambda key, config, *_: names.append(config.name))
    return names


def negative(x: Tensor) -> Tensor:
    """The same values, whose memory has the other sign."""
    found = torch._neg_view(-x)
    assert found.is_neg()
    return found


X = torch.randn(16, 256)
WEIGHT, ROWS = X[0].clone(), torch.randn(8, 16)
INDEX = torch.zeros(16, dtype=torch.int32)
EDGES = torch.tensor([0, 16], dtype=torch.int32)
IDS = torch.tensor([[1, 0], [2, 1]], dtype=torch.int32)
PLACES = torch.tensor([[1, 7], [2, -1]], dtype=torch.int32)

CALLS: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "quantize_1x128": (quantize_1x128, (X,)),
    "quantize_1x128 of rows": (lambda x, rows: quantize_1x128(x, rows=rows), (X, INDEX)),
    "quantize_1x128 into": (
        lambda x, s: quantize_1x128(x, scales_out=s.zero_()),
        (X, torch.zeros(16, 2)),
    ),
    "quantize_128x128": (quantize_128x128, (X,)),
    "quantize_both_ways": (quantize_both_ways, (X,)),
    "quantize_both_ways by groups": (lambda x, offsets: quantize_both_ways(x, offsets=offsets), (X, EDGES)),
    "quantize_both_ways by groups of any size": (
        lambda x, offsets, ends: quantize_both_ways(x, offsets=offsets, ends=ends),
        (X, 2 * EDGES, EDGES[1:].clone()),  # all columns that there are
    ),
    "quantize_normed": (rms_norm_quantize_1x128, (X, WEIGHT)),
    "quantize_normed of a sum": (
        lambda x, weight, residual: rms_norm_quantize_1x128(x, weight, residual=residual.copy_(x)),
        (X, WEIGHT, X.clone()),
    ),
    "route": (lambda ids, weights: moe.route(ids, 3, weights), (IDS, torch.rand(2, 2))),
    "combine": (
        lambda rows, places, base: moe.combine(rows, places, base=base),
        (ROWS, PLACES, torch.randn(2, 16)),
    ),
}


def tensors_of(made: Any) -> list[Tensor]:
    if isinstance(made, Tensor):
        return [made]
    return [each for one in made for each in tensors_of(one)]


@pytest.mark.parametrize("name", CALLS)
def test_memory_of_another_sign_is_for_torch(launches: list[str], name: str) -> None:
    """A kernel reads and writes bytes, and no flag beside them."""
    call, given = CALLS[name]
    want = [each.clone() for each in tensors_of(call(*given))]
    assert len(launches) == 1
    assert launches[0].startswith(name.split()[0])
    for number, one in enumerate(given):
        found = call(*(negative(each) if each is one else each for each in given))
        assert len(launches) == 1, f"argument {number}"
        for a, b in zip(tensors_of(found), want, strict=True):
            assert torch.equal(a.float(), b.float())
