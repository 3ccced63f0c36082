"""FP8 values of a weight are made once for each of its values, and never used for another."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import torch
from nn_layers import IN, OUT, by_blocks, layer, normal, off
from torch import Tensor, nn

from cute_gemm.nn import FP8Linear, weights

Count = Callable[[], int]


@pytest.fixture
def quantized(monkeypatch: pytest.MonkeyPatch) -> Count:
    """How many weights were quantised since it was asked last."""
    made = []
    original = weights.quantize_128x128

    def counting(w: Tensor) -> tuple[Tensor, Tensor]:
        made.append(w)
        return original(w)

    monkeypatch.setattr(weights, "quantize_128x128", counting)

    def count() -> int:
        number = len(made)
        made.clear()
        return number

    return count


def is_right(linear: FP8Linear) -> bool:
    """Whether products of forward and backward are of the weight as it is now."""
    x = normal(16, IN, dtype=torch.float32).requires_grad_()
    y = linear(x)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    fresh = FP8Linear.from_linear(nn.Linear(IN, OUT))
    fresh.load_state_dict(linear.state_dict())
    wanted = fresh(x)
    (wanted_dx,) = torch.autograd.grad(wanted, x, torch.ones_like(y))
    return torch.equal(y, wanted) and torch.equal(dx, wanted_dx)


@pytest.fixture
def linear() -> FP8Linear:
    """One whose FP8 values were made, both for forward and for backward."""
    made = layer(torch.float32)
    assert is_right(made)
    return made


def test_transposed_values_are_those_of_the_weight() -> None:
    w = normal(OUT, IN)
    (q, s), (q_t, s_t) = weights.quantized(w), weights.transposed(w)
    assert torch.equal(q_t.view(torch.uint8), q.view(torch.uint8).t())
    assert torch.equal(s_t, s.t())
    assert q_t.is_contiguous()
    assert off(by_blocks(w.t()), by_blocks(w).t()) == 0


def test_a_weight_is_quantised_once_for_all_batches_of_a_step(quantized: Count) -> None:
    linear = layer()
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    for _ in range(2):
        for _ in range(3):
            linear(normal(16, IN).requires_grad_()).sum().backward()
        with torch.no_grad():
            linear(normal(16, IN))
        assert quantized() == 2  # and once as backward multiplies by it
        optimizer.step()


class WritingToMemory(torch.optim.Optimizer):
    """One whose kernels autograd knows nothing of."""

    def __init__(self, parameters: list[Tensor]) -> None:
        super().__init__(parameters, {})

    def step(self) -> None:
        for group in self.param_groups:
            for each in group["params"]:
                each.data.mul_(2)


def in_place(linear: FP8Linear) -> None:
    with torch.no_grad():
        linear.weight.mul_(2)


def by_optimizer(linear: FP8Linear) -> None:
    version = linear.weight._version
    WritingToMemory([linear.weight]).step()
    assert linear.weight._version == version


def after_optimizer(linear: FP8Linear) -> None:
    torch.optim.SGD([torch.zeros(1, requires_grad=True)]).step()
    linear.weight.data.mul_(2)


def by_data(linear: FP8Linear) -> None:
    linear.weight.data = linear.weight.data * 2


def by_another(linear: FP8Linear) -> None:
    linear.weight = nn.Parameter(linear.weight.detach() * 2)


def set_again(linear: FP8Linear) -> None:
    """As FSDP2 does it: the same object, whose values changed without being counted."""
    linear.weight.data.mul_(2)
    linear.weight = linear.weight


def by_loading(linear: FP8Linear) -> None:
    linear.load_state_dict({name: 2 * x for name, x in linear.state_dict().items()})


def by_assigning(linear: FP8Linear) -> None:
    linear.load_state_dict({name: 2 * x for name, x in linear.state_dict().items()}, assign=True)


def by_forgetting(linear: FP8Linear) -> None:
    linear.weight.data.mul_(2)
    linear.forget()


def by_moving(linear: FP8Linear) -> None:
    linear.half().float()


@pytest.mark.parametrize(
    "change",
    [
        in_place,
        by_optimizer,
        after_optimizer,
        by_data,
        by_another,
        set_again,
        by_loading,
        by_assigning,
        by_forgetting,
        by_moving,
    ],
)
def test_a_change_is_seen(linear: FP8Linear, quantized: Count, change: Callable[[FP8Linear], None]) -> None:
    x = normal(16, IN, dtype=torch.float32)
    before = linear(x)
    assert quantized() == 0
    change(linear)
    assert is_right(linear)
    assert not torch.equal(before, linear(x))


@torch.no_grad()
def test_weights_that_come_and_go_are_not_taken_for_each_other() -> None:
    """Each lies where the last one was, and has changed as often."""
    kept, w = weights.KeptWeight(), normal(OUT, IN)
    memory, states = bytearray(w.nbytes), set()
    for factor in (1.0, 2.0, 4.0):
        passed = torch.frombuffer(memory, dtype=w.dtype).view(OUT, IN).copy_(w * factor)
        states.add((passed.data_ptr(), passed._version))
        assert torch.equal(kept.rows(passed)[1], weights.quantized(w)[1] * factor)
        del passed
    assert len(states) == 1


@torch.no_grad()
def test_parameters_that_are_passed_for_a_call_are_not_taken_for_each_other() -> None:
    linear, x = layer(torch.float32), normal(16, IN, dtype=torch.float32)
    w = linear.weight.detach().clone()
    for factor in (1.0, 2.0, 4.0):
        # Each is made anew, and often where the last one was.
        y = torch.func.functional_call(linear, {"weight": w * factor}, x)
        assert off(y - linear.bias, x.double() @ w.double().t() * factor) < 0.05


def test_what_is_kept_is_let_go(linear: FP8Linear) -> None:
    kept = linear._kept
    assert kept._kept is not None
    linear.to(torch.bfloat16)
    assert kept._kept is None
    linear(normal(16, IN))
    assert kept._kept is not None
    linear.forget()
    assert kept._kept is None
    assert pickle.loads(pickle.dumps(kept))._kept is None


def test_in_inference_mode(quantized: Count) -> None:
    linear, x = layer(torch.float32), normal(16, IN, dtype=torch.float32)
    with torch.inference_mode():
        y = linear(x)
        assert torch.equal(linear(x), y)
        assert quantized() == 1
        made = layer(torch.float32)
        assert torch.equal(made(x), y)  # its weight counts no changes
        made.weight.mul_(2)
        assert not torch.equal(made(x), y)
    # What was made in it serves outside.
    given = x.clone().requires_grad_()
    linear(given).sum().backward()
    assert given.grad is not None
    assert is_right(linear)
