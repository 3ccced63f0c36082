"""Which GPUs count as Hopper, and how others are named."""

import pytest
import torch

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
