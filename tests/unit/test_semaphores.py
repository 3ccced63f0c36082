"""Which counter a kernel may draw from."""

from types import SimpleNamespace

import pytest
import torch
from cuda.bindings import driver

from cute_gemm.runtime import semaphores as counters


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What stream is current in a context that there need not be, and whether it is being captured."""
    now = SimpleNamespace(stream_id=0, cuda_stream=0x7000, context=1, capturing=False, made=[])

    def new(handle: int) -> int:
        now.made.append(handle)
        return 0x1000 * len(now.made)

    monkeypatch.setattr(counters, "_counters", {})
    monkeypatch.setattr(counters, "_context", lambda: now.context)
    monkeypatch.setattr(counters, "_new", new)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: now)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: now.capturing)
    return now


def test_a_stream_of_a_context_has_one_of_its_own(stream: SimpleNamespace) -> None:
    first = counters.address(0)
    assert first != 0
    assert counters.address(0) == first
    stream.context, stream.cuda_stream = 2, 0x8000
    other = counters.address(1)
    stream.stream_id, stream.cuda_stream = 3, 0x9000
    assert len({first, other, counters.address(1)}) == 3
    assert stream.made == [0x7000, 0x8000, 0x9000]


def test_none_is_for_a_capture(stream: SimpleNamespace) -> None:
    counters.address(0)
    stream.capturing = True
    assert counters.address(0) == 0


@pytest.mark.parametrize("handle", [2, 0x55D0C0])
def test_none_is_for_a_stream_of_others(stream: SimpleNamespace, handle: int) -> None:
    """Such as `cudaStreamPerThread`, which is 2, or one that may be destroyed."""
    stream.stream_id = handle
    assert counters.address(0) == 0
    assert not counters._counters


@pytest.mark.parametrize("failing", [0, 1])
def test_none_is_where_cuda_gives_no_memory(monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    errors = [driver.CUresult.CUDA_SUCCESS] * 2
    errors[failing] = driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    fake = SimpleNamespace(
        CUresult=driver.CUresult,
        cuMemAllocAsync=lambda size, stream: (errors[0], 0x7000),
        cuMemsetD32Async=lambda address, value, words, stream: (errors[1],),
    )
    monkeypatch.setattr(counters, "driver", fake)
    assert counters._new(0) == 0
    errors[failing] = driver.CUresult.CUDA_SUCCESS
    assert counters._new(0) == 0x7000
