"""In place of a Hopper GPU and of kernels: the slow path runs on CPU tensors, and notes what it launches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from cute_gemm.plan.card import H100, Card
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.runtime import builder, hardware, launcher, selection, semaphores

ON_THE_CPU = -1
"""The device index of CPU tensors."""

SEMAPHORE = 4096


def card_of(sms: int) -> Card:
    """An H100 that has so many multiprocessors."""
    return replace(H100, sms=sms)


def stand_in_card(monkeypatch: pytest.MonkeyPatch, sms: int) -> None:
    """Every device, also where there is none, is :func:`card_of` so many multiprocessors."""
    monkeypatch.setattr(hardware, "card", lambda index=None: card_of(sms))


class Device:
    """A device with 132 multiprocessors, and kernels that do nothing.

    Attributes:
        problems: which kernels were chosen for, and whether TMA can load scales of A.
        made: configurations whose kernel was asked for.
        launches: what kernels were called with.
        choose: what is chosen for a problem.
        capturing: whether the current stream is being captured.
        broken: whether kernels do not compile.
        failing: whether launches fail.
    """

    def __init__(self) -> None:
        self.problems: list[tuple[GemmProblem, bool]] = []
        self.made: list[KernelConfig] = []
        self.launches: list[tuple[Any, ...]] = []
        self.choose: Callable[[GemmProblem], KernelConfig] = lambda problem: KernelConfig(
            64, 64, 4, layout=problem.layout
        )
        self.capturing = False
        self.broken = False
        self.failing = False

    def select(self, problem: GemmProblem, tma_scales: bool = False) -> KernelConfig:
        self.problems.append((problem, tma_scales))
        return self.choose(problem)

    def instance(self, config: KernelConfig) -> Callable[..., None]:
        if self.broken:
            raise RuntimeError("does not compile")
        self.made.append(config)
        return self.launch

    def launch(self, *arguments: Any) -> None:
        if self.failing:
            raise RuntimeError("does not launch")
        self.launches.append(arguments)


@contextmanager
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """A device that is the current one, and has launched nothing yet."""
    device = Device()
    monkeypatch.setattr(selection, "select", device.select)
    monkeypatch.setattr(selection, "_launched", set())
    monkeypatch.setattr(builder, "instance", device.instance)
    monkeypatch.setattr(semaphores, "address", lambda index: SEMAPHORE)
    monkeypatch.setattr(launcher, "require_hopper", lambda index: None)
    monkeypatch.setattr(hardware, "make_context_current", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: ON_THE_CPU)
    stand_in_card(monkeypatch, 132)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: device.capturing)
    launcher.forget()
    yield device
    launcher.forget()
