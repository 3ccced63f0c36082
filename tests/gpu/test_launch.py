"""What surrounds a launch: streams, graphs, devices, threads, refusals, the host's time, the disk cache."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import groups
import pytest
import torch
from tensors import bits, problem_here

from cute_gemm import (
    contract,
    fp8_gemm_nt,
    m_grouped_fp8_gemm_nt_contiguous,
    m_grouped_fp8_gemm_nt_masked,
    m_grouped_fp8_gemm_nt_offsets,
    reference,
)
from cute_gemm.plan.layouts import CONTIGUOUS, DENSE, LAYOUTS, MASKED, OFFSETS, Layout
from cute_gemm.runtime import cache, hardware, launcher, selection, semaphores, torch_internals
from cute_gemm.testing import assert_correct, host_time, make_inputs

Operand = tuple[torch.Tensor, torch.Tensor]
SHAPE = (129, 264, 1040)
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
# At 2 GHz, 50 ms: longer than anything here takes to enqueue.
LONG = 100_000_000


@pytest.fixture
def operands() -> tuple[Operand, Operand]:
    return make_inputs(*SHAPE, device="cuda")


@pytest.fixture
def expected(operands: tuple[Operand, Operand]) -> torch.Tensor:
    """The result, whose computation also loads the kernel."""
    (a, sa), (b, sb) = operands
    out = fp8_gemm_nt(*operands)
    assert_correct(out, a, sa, b, sb)
    return out


def empty_like(operand: Operand) -> Operand:
    q, s = operand
    return torch.zeros_like(bits(q)).view(q.dtype), torch.zeros_like(s)


def fill(target: Operand, source: Operand) -> None:
    for x, y in zip(target, source, strict=True):
        bits(x).copy_(bits(y))


# Streams and graphs


def test_work_is_ordered_on_the_current_stream(
    operands: tuple[Operand, Operand], expected: torch.Tensor
) -> None:
    late = tuple(empty_like(operand) for operand in operands)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(LONG)
        for target, source in zip(late, operands, strict=True):
            fill(target, source)
        out = fp8_gemm_nt(*late)
        after = out.clone()
    assert not side.query(), "the call waited, or the stream was not busy"
    side.synchronize()
    assert torch.equal(bits(out), bits(expected))
    assert torch.equal(bits(after), bits(expected))


def test_work_on_another_stream_is_not_waited_for(
    operands: tuple[Operand, Operand], expected: torch.Tensor
) -> None:
    busy, side = torch.cuda.Stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(busy):
        torch.cuda._sleep(10 * LONG)
    with torch.cuda.stream(side):
        out = fp8_gemm_nt(*operands)
    side.synchronize()
    still_busy = not busy.query()
    torch.cuda.synchronize()
    assert still_busy
    assert torch.equal(bits(out), bits(expected))


@pytest.mark.parametrize("allocate", [False, True])
def test_graph_capture_and_replay(
    operands: tuple[Operand, Operand], expected: torch.Tensor, allocate: bool
) -> None:
    inputs = tuple(empty_like(operand) for operand in operands)
    out = None if allocate else torch.empty_like(expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = fp8_gemm_nt(*inputs, out)
    for seed in (1, 2):
        fresh = make_inputs(*SHAPE, seed=seed, device="cuda")
        for target, source in zip(inputs, fresh, strict=True):
            fill(target, source)
        result.fill_(torch.nan)
        graph.replay()
        assert torch.equal(bits(result), bits(fp8_gemm_nt(*fresh)))


# Devices and threads


def test_tensors_decide_on_the_device() -> None:
    if torch.cuda.device_count() < 2 or torch.cuda.get_device_capability(1) != (9, 0):
        pytest.skip("needs a second Hopper GPU")
    here = torch.cuda.current_device()
    other = torch.device("cuda", 1 if here == 0 else 0)
    for device in (other, torch.device("cuda", here), other):
        (a, sa), (b, sb) = make_inputs(*SHAPE, device=device)
        out = fp8_gemm_nt((a, sa), (b, sb))
        assert out.device == device
        assert_correct(out, a, sa, b, sb)
        assert torch.cuda.current_device() == here


def test_operands_on_two_devices_are_refused() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs a second GPU")
    (a, sa), (b, sb) = make_inputs(*SHAPE, device="cuda:0")
    with pytest.raises(ValueError, match="cuda:1"):
        fp8_gemm_nt((a, sa), (b.to("cuda:1"), sb))


def test_threads_with_streams_of_their_own(operands: tuple[Operand, Operand], expected: torch.Tensor) -> None:
    """Also the very first use of CUDA in a thread, which has no current context yet."""
    torch.cuda.synchronize()
    results: list[torch.Tensor | None] = [None] * 8

    def work(index: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                results[index] = fp8_gemm_nt(*operands)
            torch.cuda.current_stream().synchronize()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for result in results:
        assert result is not None
        assert torch.equal(bits(result), bits(expected))


IN_A_THREAD = """
import sys, threading, torch
from cute_gemm import fp8_gemm_nt
from cute_gemm.testing import assert_correct, make_inputs

def first_of_all():
    # So that the thread that has imported the package uses CUDA by a call alone.
    global operands, out
    operands = make_inputs(130, 264, 528, device="cuda")
    out = fp8_gemm_nt(*operands)
    torch.cuda.synchronize()


thread = threading.Thread(target=first_of_all)
thread.start()
thread.join()
fp8_gemm_nt(*operands, out)
operands = make_inputs(130, 264, 528, device="cuda")
others = make_inputs(130, 264, 1040, device="cuda")
expected = fp8_gemm_nt(*operands)
outs = [torch.empty_like(expected) for _ in range(2)]
torch.cuda.synchronize()


def warm():
    fp8_gemm_nt(*operands, outs[0])


def first():
    fp8_gemm_nt(*others, outs[1])


for work in [warm, first]:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
torch.cuda.synchronize()
assert torch.equal(outs[0], expected)
(a, sa), (b, sb) = others
assert_correct(outs[1], a, sa, b, sb)
print("done")
"""


def test_a_threads_first_use_of_cuda_may_be_a_call() -> None:
    """It has no context then, without which a launch would end the process."""
    done = subprocess.run(
        [sys.executable, "-c", IN_A_THREAD], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout == "done\n", done.stderr


# Refusals

Call = tuple[Operand, Operand, Any]


def moved(x: torch.Tensor, by: int, room: int = 0) -> torch.Tensor:
    """A copy `by` bytes behind a well aligned address, with `room` elements between its rows."""
    rows, columns = x.shape
    memory = torch.zeros(rows * (columns + room) * x.element_size() + 16, dtype=torch.uint8, device=x.device)
    copy = memory[by : by - 16].view(x.dtype).view(rows, columns + room)[:, :columns]
    bits(copy).copy_(bits(x))
    return copy


BAD: dict[str, Callable[[Operand, Operand, torch.Tensor], Call]] = {
    "A in bf16": lambda a, b, out: ((a[0].bfloat16(), a[1]), b, out),
    "scales in fp64": lambda a, b, out: ((a[0], a[1].double()), b, out),
    "scales of another shape": lambda a, b, out: (a, (b[0], b[1][:, :-1]), out),
    "scales on the CPU": lambda a, b, out: ((a[0], a[1].cpu()), b, out),
    "another K": lambda a, b, out: (a, (b[0][:, :512], b[1][:, :4]), out),
    "A off by 8 bytes": lambda a, b, out: ((moved(a[0], 8), a[1]), b, out),
    "rows of B 8 bytes further apart": lambda a, b, out: (a, (moved(b[0], 0, room=8), b[1]), out),
    "K not contiguous": lambda a, b, out: ((moved(a[0].t(), 0).t(), a[1]), b, out),
    "result of another shape": lambda a, b, out: (a, b, out[:-1]),
    "result off by 2 bytes": lambda a, b, out: (a, b, moved(out, 2)),
    "rows of the result 8 bytes further apart": lambda a, b, out: (a, b, moved(out, 0, room=4)),
    "result over A": lambda a, b, out: (a, b, a[0].view(torch.bfloat16)[:, :264]),
    "a gradient": lambda a, b, out: ((a[0], a[1].clone().requires_grad_()), b, out),
}


@pytest.mark.parametrize("case", BAD)
def test_a_refused_call_leaves_no_trace(
    case: str, operands: tuple[Operand, Operand], expected: torch.Tensor
) -> None:
    out = torch.full_like(expected, torch.nan)
    lhs, rhs, target = BAD[case](*operands, out)
    touchable = [bits(t) for t in (out, target, *operands[0], *operands[1])]
    before = [t.clone() for t in touchable]
    with pytest.raises((TypeError, ValueError)):
        fp8_gemm_nt(lhs, rhs, target)
    torch.cuda.synchronize()
    assert all(torch.equal(x, y) for x, y in zip(before, touchable, strict=True))
    assert torch.equal(bits(fp8_gemm_nt(*operands, out)), bits(expected))


# Cost, and what is kept


def small(layout: Layout) -> tuple[Callable[[torch.Tensor | None], torch.Tensor], tuple[int, ...]]:
    """A tiny product by the operation of a layout, which takes ``out``; and the shape of that."""
    if layout is DENSE:
        lhs, rhs = make_inputs(16, 64, 128, device="cuda")
        return lambda out: fp8_gemm_nt(lhs, rhs, out), (16, 64)
    inputs = groups.Problem.make([5, 0, 7, 4], 64, 128).arranged(layout)
    lhs, rhs, index, shape = inputs.lhs, inputs.rhs, inputs.index, (*inputs.row_groups.shape, 64)
    calls: dict[Layout, Callable[[torch.Tensor | None], torch.Tensor]] = {
        CONTIGUOUS: lambda out: m_grouped_fp8_gemm_nt_contiguous(lhs, rhs, index, out),
        OFFSETS: lambda out: m_grouped_fp8_gemm_nt_offsets(lhs, rhs, index, out),
        MASKED: lambda out: m_grouped_fp8_gemm_nt_masked(lhs, rhs, index, 4, out),
    }
    return calls[layout], shape


@pytest.mark.parametrize("allocate", [False, True])
@every_layout
def test_a_warm_call_takes_the_fast_path(
    layout: Layout, allocate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, shape = small(layout)
    expected = call(torch.zeros(shape, dtype=torch.bfloat16, device="cuda"))
    monkeypatch.setattr(contract, "check", None)
    result = call(None if allocate else torch.zeros_like(expected))
    written = expected != 0  # rows of no group are not written
    assert written.any()
    assert torch.equal(result[written], expected[written])


def test_torch_need_not_have_what_is_taken_from_inside_it(
    operands: tuple[Operand, Operand], expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "check", None)
    monkeypatch.setattr(launcher, "empty_strided_cuda", torch_internals._empty_strided_publicly)
    monkeypatch.setattr(semaphores, "current_raw_stream", torch_internals._raw_stream_publicly)
    assert torch.equal(bits(fp8_gemm_nt(*operands)), bits(expected))


def test_what_is_taken_from_inside_torch_does_what_the_public_way_does() -> None:
    device, (size, stride) = torch.cuda.current_device(), ((3, 16), (16, 1))
    result = torch_internals.empty_strided_cuda(size, stride, torch.bfloat16)
    public = torch_internals._empty_strided_publicly(size, stride, torch.bfloat16)
    for each in (result, public):
        assert (each.shape, each.stride(), each.dtype, each.get_device()) == (
            size,
            stride,
            torch.bfloat16,
            device,
        )
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            handle = torch_internals.current_raw_stream(device)
            assert handle == torch_internals._raw_stream_publicly(device) == stream.cuda_stream


HOST_TIME_LIMITS = {"dense": 0.95, "contiguous": 1.15, "offsets": 1.15, "masked": 1.15}
"""Of a warm call with `out`, in times of what `torch.mm(out=)` of a tiny product takes on the same host."""


@every_layout
def test_host_time_of_a_warm_call(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    call, shape = small(layout)
    out = torch.zeros(shape, dtype=torch.bfloat16, device="cuda")
    x, w = (torch.randn(*size, device="cuda").bfloat16() for size in ((16, 128), (128, 64)))
    product = torch.empty(16, 64, dtype=torch.bfloat16, device="cuda")
    # In turn, and the least of several: what else the machine does must not count.
    times = [(host_time(lambda: call(out)), host_time(lambda: torch.mm(x, w, out=product))) for _ in range(7)]
    ours, torchs = (min(each) for each in zip(*times, strict=True))
    ratio = ours / torchs
    with capsys.disabled():
        print(f"\n{layout.name}: {ours:.1f} us, {ratio:.2f} of torch.mm(out=), which takes {torchs:.1f} us")
    assert ratio <= HOST_TIME_LIMITS[layout.name]


def test_host_time_of_a_call_that_allocates() -> None:
    """As long as PyTorch takes, which allocates too."""
    call, _ = small(DENSE)
    x, w = (torch.randn(*size, device="cuda").bfloat16() for size in ((16, 128), (128, 64)))
    times = [(host_time(lambda: call(None)), host_time(lambda: torch.mm(x, w))) for _ in range(7)]
    ours, torchs = (min(each) for each in zip(*times, strict=True))
    assert ours <= max(10.0, torchs), f"torch.mm takes {torchs:.1f} us"


def test_sizes_of_one_configuration_share_a_kernel(caplog: pytest.LogCaptureFixture) -> None:
    """M, N and K arrive with a call: for another size a kernel is neither compiled nor loaded again."""
    first, *others = (129, 264, 1040), (130, 264, 1040), (129, 272, 1040), (129, 264, 1056)
    config = selection.select(problem_here(*first))
    fp8_gemm_nt(*make_inputs(*first, device="cuda"))
    caplog.set_level(logging.DEBUG, logger="cute_gemm")
    for size in others:
        assert selection.select(problem_here(*size)) == config
        (a, sa), (b, sb) = make_inputs(*size, device="cuda")
        assert_correct(fp8_gemm_nt((a, sa), (b, sb)), a, sa, b, sb)
    assert caplog.text == ""


def test_who_has_compiled_all_configurations_never_compiles(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """As an exhaustive session has, before its first test: whatever is chosen is one of them."""
    if not request.config.getoption("exhaustive"):
        pytest.skip("needs every kernel: --exhaustive")
    caplog.set_level(logging.INFO, logger="cute_gemm")
    random = torch.Generator().manual_seed(0)
    for _ in range(40):
        m, n, k = (2 ** (11 * torch.rand(3, generator=random)) + 1).int().tolist()
        fp8_gemm_nt(*make_inputs(m, 8 * n, 16 * k % 4096 + 16, device="cuda"))
    assert "compil" not in caplog.text


CHILD = """
import hashlib, logging, torch
from cute_gemm import fp8_gemm_nt
from cute_gemm.testing import make_inputs

logging.basicConfig(format="%(message)s")
logging.getLogger("cute_gemm").setLevel(logging.DEBUG)
operands = [(q.cuda(), s.cuda()) for q, s in make_inputs({m}, {n}, {k})]
out = fp8_gemm_nt(*operands)
print(hashlib.sha256(bytes(out.view(torch.uint8).flatten().tolist())).hexdigest())
"""


def test_the_next_process_takes_the_kernel_from_disk(tmp_path: Path) -> None:
    environment = os.environ | {cache.DIRECTORY_VARIABLE: str(tmp_path / "cache")}
    m, n, k = SHAPE
    script = CHILD.format(m=m, n=n, k=k)
    cold, warm = (
        subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300
        )
        for _ in range(2)
    )
    assert cold.returncode == 0, cold.stderr
    assert warm.returncode == 0, warm.stderr
    assert "compiling" in cold.stderr
    assert "loaded" in warm.stderr
    assert "compil" not in warm.stderr
    assert cold.stdout == warm.stdout


@every_layout
def test_this_machine_is_served_by_kernels(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard for this level of tests: they must not pass by way of the reference."""
    assert hardware.is_hopper()
    monkeypatch.setattr(reference, "compute", None)
    call, _ = small(layout)
    launcher.forget()
    for _ in range(2):
        assert call(None).is_cuda
