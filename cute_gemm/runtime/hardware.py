"""Which GPUs the kernels run on."""

from __future__ import annotations

import functools
from typing import Any

import torch

from ..plan.card import CARDS, H100, Card, tensor_share

_HOPPER = (9, 0)


def is_hopper(index: int | None = None) -> bool:
    """Whether a CUDA device is a Hopper GPU, such as H100, H200 or H20; False where torch sees no device.

    Args:
        index: the device's number; None for the current device.
    """
    # Under ROCm torch.cuda drives AMD devices, and an MI250 reports 9.0 too.
    if not torch.cuda.is_available() or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(index) == _HOPPER


def describe(index: int | None = None) -> str:
    """A device's name and what tells whether it is a Hopper GPU: ``NVIDIA L4 (compute capability 8.9)``.

    Args:
        index: the device's number; None for the current device.

    Raises:
        RuntimeError, AssertionError: torch's, where there is no such device.
    """
    major, minor = torch.cuda.get_device_capability(index)
    kind = "a ROCm device" if torch.version.hip is not None else f"compute capability {major}.{minor}"
    return f"{torch.cuda.get_device_name(index)} ({kind})"


def card(index: int | None = None) -> Card:
    """What of a CUDA device, which is a Hopper GPU, decides how long kernels take.

    Args:
        index: the device's number; None for the current device.

    Raises:
        RuntimeError, AssertionError: torch's, where there is no such device.
    """
    if index is None:
        index = torch.cuda.current_device()
    properties = torch.cuda.get_device_properties(index)
    return _card(index, properties.name, properties.multi_processor_count)


@functools.cache
def _card(index: int, name: str, sms: int) -> Card:
    """By what the driver says; what it does not say is taken from a card of this name, or from an H100."""
    from cuda.bindings import driver

    def asked(name: str) -> int:
        attribute = getattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        error, value = driver.cuDeviceGetAttribute(attribute, index)
        return int(value) if error == driver.CUresult.CUDA_SUCCESS else 0

    known = CARDS.get(name, H100)
    # Two transfers a clock.
    dram_bytes_per_us = 2 * asked("MEMORY_CLOCK_RATE") * asked("GLOBAL_MEMORY_BUS_WIDTH") / 8e3
    return Card(
        name,
        sms,
        asked("CLOCK_RATE") // 1000 or known.sm_mhz,
        dram_bytes_per_us or known.dram_bytes_per_us,
        asked("L2_CACHE_SIZE") or known.l2_bytes,
        tensor_share(name),
    )


def make_context_current() -> bool:
    """Has the calling thread use the context of its current CUDA device, where it has none yet.

    Torch's kernels do that when they are launched. One that is launched by CUDA's driver needs it done:
    without a context it fails in code that then ends the process.

    Returns:
        Whether it has one now; not before torch uses CUDA.

    Raises:
        RuntimeError: CUDA refuses.
    """
    if not torch.cuda.is_initialized():
        return False
    from cuda.bindings import driver

    def checked(found: tuple[Any, ...]) -> Any:
        error, *values = found
        if error != driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"this thread cannot use cuda:{device}: {error.name}")
        return values[0] if values else None

    device = torch.cuda.current_device()
    if int(checked(driver.cuCtxGetCurrent())):
        return True
    # Torch keeps it for as long as the process lives.
    context = checked(driver.cuDevicePrimaryCtxRetain(checked(driver.cuDeviceGet(device))))
    checked(driver.cuCtxSetCurrent(context))
    return True
