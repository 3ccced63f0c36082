"""Which GPUs count as Hopper, and how others are named."""

from typing import Any

import pytest
import torch
from cuda.bindings import driver

from cute_gemm.runtime import hardware

DEVICES = [
    ("NVIDIA H200", (9, 0), None, True, "NVIDIA H200 (compute capability 9.0)"),
    ("NVIDIA A100-SXM4-80GB", (8, 0), None, False, "NVIDIA A100-SXM4-80GB (compute capability 8.0)"),
    ("NVIDIA B200", (10, 0), None, False, "NVIDIA B200 (compute capability 10.0)"),
    ("NVIDIA of tomorrow", (9, 1), None, False, "NVIDIA of tomorrow (compute capability 9.1)"),
    ("AMD Instinct MI250X", (9, 0), "6.4", False, "AMD Instinct MI250X (a ROCm device)"),
]


@pytest.mark.parametrize(("name", "capability", "hip", "hopper", "described"), DEVICES)
def test_a_device(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    capability: tuple[int, int],
    hip: str | None,
    hopper: bool,
    described: str,
) -> None:
    """Device 1 is what it says, device 0, the current one, is old."""
    current = (7, 5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability if index else current)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: name if index else "old")
    assert hardware.is_hopper(1) is hopper
    assert hardware.describe(1) == described
    assert not hardware.is_hopper()
    assert hardware.describe().startswith("old (")
    current = (9, 0)
    assert hardware.is_hopper() is (hip is None)


def test_without_a_device_there_is_no_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    assert not hardware.is_hopper()


class Driver:
    """In the place of CUDA's driver: a thread's context, and what was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, context: int) -> None:
        self.context, self.error = context, driver.CUresult.CUDA_SUCCESS
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
        monkeypatch.setattr(driver, "cuCtxGetCurrent", lambda: (self.error, self.context))
        monkeypatch.setattr(driver, "cuDeviceGet", lambda ordinal: (self.error, f"device {ordinal}"))
        monkeypatch.setattr(
            driver, "cuDevicePrimaryCtxRetain", lambda device: (self.error, f"context of {device}")
        )
        monkeypatch.setattr(driver, "cuCtxSetCurrent", self.set)

    def set(self, context: Any) -> tuple[Any]:
        self.context = context
        return (self.error,)


def test_a_thread_without_a_context_gets_that_of_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    without = Driver(monkeypatch, 0)
    assert hardware.make_context_current()
    assert without.context == "context of device 3"
    with_one = Driver(monkeypatch, 7)
    assert hardware.make_context_current()
    assert with_one.context == 7


def test_what_cuda_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = Driver(monkeypatch, 0)
    refusing.error = driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(RuntimeError, match="cannot use cuda:3: CUDA_ERROR_OUT_OF_MEMORY"):
        hardware.make_context_current()


def test_before_torch_uses_cuda_nothing_is_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    driver_in_place = Driver(monkeypatch, 0)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert not hardware.make_context_current()
    assert driver_in_place.context == 0
