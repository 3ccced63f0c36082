"""The slow path of products with an epilogue: what is thought about once, and what is handed over."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from calls import Arguments, arguments, every_layout
from stand_ins import Device, stand_in

from cute_gemm import config, epilogue
from cute_gemm.contract import check
from cute_gemm.epilogue import Epilogue
from cute_gemm.plan import candidates
from cute_gemm.plan.layouts import DENSE, Layout
from cute_gemm.runtime import epilogued, launcher


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    with stand_in(monkeypatch) as device:
        device.choose = lambda problem: next(
            each
            for each in candidates.all_configs(problem.out_dtype, problem.layout, narrowing=problem.narrowing)
            if candidates.is_candidate(problem, each)
        )
        yield device


def launch(given: Arguments, of: Epilogue, out: Any = None) -> torch.Tensor:
    call = check(
        given.layout, *given.pairs, out, torch.bfloat16, given.index, given.count, False, form=of.form
    )
    of.check(call)
    return epilogued.launch(call, of.applied)


@every_layout
def test_operands_are_handed_over_and_a_choice_is_made_once(device: Device, layout: Layout) -> None:
    given = arguments(layout)
    biases = [torch.full((16,), float(i)) for i in range(3)]
    for bias in biases:
        launch(given, epilogue.bias(bias) | epilogue.alpha(bias[0].item()))
    assert len(device.problems) == len(device.made) == 1
    assert len(device.launches) == 3
    for launched, bias in zip(device.launches, biases, strict=True):
        *_, got, number = launched
        assert got is bias
        assert number == bias[0].item()


def test_what_shapes_a_kernel_is_told_apart(device: Device) -> None:
    given, bias = arguments(DENSE), torch.ones(16)
    others: list[Epilogue] = [
        epilogue.bias(bias),
        epilogue.bias(bias.half()),
        epilogue.bias(bias) | epilogue.silu(),
        epilogue.alpha(2.0),
        epilogue.alpha(bias[:1]),
        epilogue.swiglu(),
        epilogue.swiglu(7.0),
    ]
    for _ in range(2):
        for each in others:
            launch(given, each)
    assert len(device.problems) == len(others)
    assert len(device.launches) == 2 * len(others)
    with config(num_sms=64):
        launch(given, others[0])
    launch(given, others[0], out=given.new_out(torch.float32))
    launch(arguments(DENSE, rows=7), others[0])
    launcher.launch_checked(given.checked())
    assert len(device.problems) == len(others) + 4


def test_a_first_launch_is_not_captured_and_a_known_one_is(device: Device) -> None:
    given = arguments(DENSE)
    device.capturing = True
    with pytest.raises(RuntimeError, match="was not called on"):
        launch(given, epilogue.relu())
    device.capturing = False
    launch(given, epilogue.relu())
    device.capturing = True
    launch(given, epilogue.relu())
    assert len(device.launches) == 2
