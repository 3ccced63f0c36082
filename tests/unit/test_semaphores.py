"""Which semaphore a kernel may draw from."""

from types import SimpleNamespace

import pytest
import torch
from cuda.bindings import driver

from cute_gemm.plan.limits import SEMAPHORE_WORDS
from cute_gemm.runtime import semaphores

OF_POOL, OTHER_OF_POOL = 3, 5  # ids of PyTorch's own streams are odd


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What stream is current in a context that there need not be, and whether it is being captured."""
    now = SimpleNamespace(stream_id=0, cuda_stream=0, context=1, capturing=False, made=[], slabs=0)

    def new(handle: int) -> int:
        now.made.append(handle)
        return 0x1000 * len(now.made)

    def for_captures() -> range:
        now.slabs += 1
        return range(0x10000 * now.slabs, 0x10000 * now.slabs + 3 * 8, 8)

    monkeypatch.setattr(semaphores, "_of_streams", {})
    monkeypatch.setattr(semaphores, "_of_contexts", {})
    monkeypatch.setattr(semaphores, "_of_captures", {})
    monkeypatch.setattr(semaphores, "_for_captures", for_captures)

    monkeypatch.setattr(semaphores, "_context", lambda: now.context)
    monkeypatch.setattr(semaphores, "_new", new)
    monkeypatch.setattr(semaphores, "current_raw_stream", lambda device: now.cuda_stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: now)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: now.capturing)
    return now


def test_default_streams_of_contexts_have_one_each(stream: SimpleNamespace) -> None:
    """As green contexts have default streams of their own, on one device."""
    first = semaphores.address(0)
    assert first != 0
    assert semaphores.address(0) == first
    stream.context = 2
    other = semaphores.address(0)
    assert other not in (0, first)
    stream.context = 1
    assert semaphores.address(0) == first
    assert stream.made == [0, 0]


def test_streams_of_pytorch_have_one_each(stream: SimpleNamespace) -> None:
    default = semaphores.address(0)
    stream.stream_id, stream.cuda_stream = OF_POOL, 0x7000
    first = semaphores.address(0)
    assert semaphores.address(0) == first
    stream.stream_id, stream.cuda_stream = OTHER_OF_POOL, 0x8000
    second = semaphores.address(0)
    # The same handle on another device is another stream.
    third = semaphores.address(1)
    assert len({0, default, first, second, third}) == 5
    assert stream.made == [0, 0x7000, 0x8000, 0x8000]


def test_each_launch_that_is_captured_has_one_of_its_own(stream: SimpleNamespace) -> None:
    """On whatever stream; what is made outside is enough until it is used up."""
    outside = semaphores.address(0)
    stream.capturing = True
    found = [semaphores.address(0)]
    stream.stream_id, stream.cuda_stream = OF_POOL, 0x7000
    found.append(semaphores.address(0))
    stream.stream_id = stream.cuda_stream = 0x55D0C0
    found.append(semaphores.address(0))
    assert len({0, outside, *found}) == 5
    assert [semaphores.address(0) for _ in range(2)] == [0, 0]
    assert (len(stream.made), stream.slabs) == (1, 1)
    stream.capturing, stream.stream_id, stream.cuda_stream = False, 0, 0
    assert [semaphores.address(0) for _ in range(2)] == [outside] * 2
    assert stream.slabs == 2
    stream.capturing = True
    assert semaphores.address(0) not in (0, outside, *found)


def test_none_is_for_a_capture_on_a_device_where_no_kernel_has_drawn(stream: SimpleNamespace) -> None:
    semaphores.address(0)
    stream.capturing = True
    assert semaphores.address(1) == 0
    assert stream.slabs == 1
    stream.capturing = False
    semaphores.address(1)
    stream.capturing = True
    assert semaphores.address(1) not in (0, semaphores.address(0))


@pytest.mark.parametrize("handle", [2, 0x55D0C0])
def test_none_is_for_a_stream_of_others(stream: SimpleNamespace, handle: int) -> None:
    """Such as `cudaStreamPerThread`, which is 2, or one that may be destroyed."""
    stream.stream_id = stream.cuda_stream = handle
    assert semaphores.address(0) == 0
    assert not semaphores._of_streams
    assert not stream.made


@pytest.mark.parametrize("failing", [0, 1])
def test_none_is_where_cuda_gives_no_memory(monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    errors = [driver.CUresult.CUDA_SUCCESS] * 2
    errors[failing] = driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    asked = []
    fake = SimpleNamespace(
        CUresult=driver.CUresult,
        cuMemAllocAsync=lambda size, stream: asked.append(size) or (errors[0], 0x7000),
        cuMemsetD32Async=lambda address, value, words, stream: asked.append((value, words)) or (errors[1],),
    )
    fake.CUstream_flags, fake.CUstreamCaptureMode = driver.CUstream_flags, driver.CUstreamCaptureMode
    fake.cuStreamCreate = lambda flags: (driver.CUresult.CUDA_SUCCESS, 9)
    fake.cuStreamDestroy = fake.cuStreamSynchronize = lambda stream: (driver.CUresult.CUDA_SUCCESS,)
    fake.cuThreadExchangeStreamCaptureMode = lambda mode: modes.append(mode) or (errors[0], "before")
    modes: list[object] = []
    monkeypatch.setattr(semaphores, "_driver", lambda: fake)
    assert semaphores._new(0) == 0
    assert not semaphores._for_captures()
    errors[failing] = driver.CUresult.CUDA_SUCCESS
    asked.clear()
    assert semaphores._new(0) == 0x7000
    assert asked == [4 * SEMAPHORE_WORDS, (0, SEMAPHORE_WORDS)]
    asked.clear()
    found = semaphores._for_captures()
    words = SEMAPHORE_WORDS * len(found)
    assert asked == [4 * words, (0, words)]
    assert (found[0], found[-1]) == (0x7000, 0x7000 + 4 * (words - SEMAPHORE_WORDS))
    assert modes == [driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED, "before"] * 2
    fake.cuStreamCreate = lambda flags: (driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY, 0)
    assert not semaphores._for_captures()
