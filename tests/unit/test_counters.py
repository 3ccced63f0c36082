"""Which counter a kernel may draw from."""

from types import SimpleNamespace

import pytest
import torch

from cute_gemm import counters


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What stream is current on a device that there need not be, and whether it is being captured."""
    now = SimpleNamespace(cuda_stream=0, capturing=False)
    zeros = torch.zeros
    monkeypatch.setattr(counters, "_counters", {})
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: now)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: now.capturing)
    monkeypatch.setattr(torch, "zeros", lambda *size, dtype, device: zeros(*size, dtype=dtype))
    return now


def test_a_stream_of_a_device_has_one_of_its_own(stream: SimpleNamespace) -> None:
    first = counters.address(0)
    assert first != 0
    assert counters.address(0) == first
    other = counters.address(1)
    stream.cuda_stream = 0x1000
    assert len({first, other, counters.address(0)}) == 3
    assert all(not counter.any() and counter.numel() == 2 for counter in counters._counters.values())


def test_none_is_for_a_capture(stream: SimpleNamespace) -> None:
    counters.address(0)
    stream.capturing = True
    assert counters.address(0) == 0


def test_none_is_for_the_stream_that_is_another_one_in_each_thread(stream: SimpleNamespace) -> None:
    stream.cuda_stream = 2
    assert counters.address(0) == 0
    assert not counters._counters
