"""What the dispatcher asks for and when it refuses, with stand-ins for kernels and for CUDA."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from cute_gemm import dispatch, jit
from cute_gemm.problem import GemmProblem, KernelConfig

LOW, TALL = KernelConfig(64, 64, 4), KernelConfig(256, 128, 4, cluster_m=2)


class Device:
    """Launches nothing and notes for what it was asked; few rows take one kernel, many another."""

    multi_processor_count = 132

    def __init__(self) -> None:
        self.capturing = False
        self.made: list[str] = []
        self.broken = False

    def instance(self, config: KernelConfig) -> Callable[..., None]:
        if self.broken:
            raise RuntimeError("does not compile")
        self.made.append(config.name)
        return lambda *arguments: None

    def call(self, m: int, n: int = 8) -> None:
        a, b = torch.zeros(m, 16), torch.zeros(n, 16)
        dispatch.fp8_gemm_nt(a, a, b, b, torch.zeros(m, n))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    device = Device()

    def select(problem: GemmProblem) -> KernelConfig:
        return LOW if problem.m <= 64 else TALL

    monkeypatch.setattr(dispatch, "select", select)
    monkeypatch.setattr(dispatch, "instance", device.instance)
    monkeypatch.setattr(dispatch, "_launched", set())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: device.capturing)
    dispatch._launcher.cache_clear()
    yield device
    dispatch._launcher.cache_clear()


def test_a_kernel_is_not_first_called_within_a_capture(device: Device) -> None:
    device.capturing = True
    for _ in range(2):
        with pytest.raises(RuntimeError, match="with this shape once before the capture") as info:
            device.call(3)
        assert f"M = 3, N = 8, K = 16 needs the kernel {LOW.name}" in str(info.value)
    assert not device.made
    device.capturing = False
    device.call(3)
    device.capturing = True
    device.call(3)
    assert device.made == [LOW.name]


def test_new_shapes_of_a_kernel_that_was_called_are_captured(device: Device) -> None:
    device.call(3)
    device.capturing = True
    device.call(64)
    device.call(3, n=16)
    with pytest.raises(RuntimeError, match=TALL.name):
        device.call(65)


def test_each_device_has_its_own_first_call(device: Device) -> None:
    device.call(3)
    device.capturing = True
    with pytest.raises(RuntimeError, match="was not called on cuda:1 before"):
        dispatch._launcher(3, 8, 16, torch.float32, 1)


def test_a_kernel_that_could_not_be_made_was_not_called(device: Device) -> None:
    device.broken = True
    with pytest.raises(RuntimeError, match="does not compile"):
        device.call(3)
    device.capturing = True
    with pytest.raises(RuntimeError, match="before the capture"):
        device.call(3)


def test_a_warm_call_asks_nothing(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.call(3)
    for name in ("is_initialized", "is_current_stream_capturing", "get_device_properties"):
        monkeypatch.setattr(torch.cuda, name, None)
    device.call(3)


def test_the_key_holds_what_kernels_derive_from_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older `problem` in this process than on disk must not share its kernels' keys."""
    keys: list[Any] = []
    monkeypatch.setattr(jit, "instance", lambda key, build, label: keys.append(key))
    dispatch.instance(LOW)
    dispatch.instance(KernelConfig(64, 64, 4))
    monkeypatch.setattr(KernelConfig, "prefetches_scales", property(lambda self: False))
    dispatch.instance(LOW)
    assert keys[0] == keys[1] != keys[2]
    assert "('stage_bytes', 16384)" in repr(keys[0])
