"""What surrounds a launch: streams, graphs, devices, threads, refusals, the host's time, the disk cache."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensors import bits

from cute_gemm import fp8_gemm_nt, ops
from cute_gemm.contract import product as checks
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.runtime import cache, dispatch, quick
from cute_gemm.testing import assert_correct, host_time, make_inputs

Operand = tuple[torch.Tensor, torch.Tensor]
SHAPE = (129, 264, 1040)
HOST_TIME_LIMIT_US = 10.0
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


@pytest.mark.parametrize("allocate", [False, True])
def test_a_warm_call_goes_the_short_way(
    operands: tuple[Operand, Operand],
    expected: torch.Tensor,
    allocate: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "product", None)
    out = None if allocate else torch.full_like(expected, torch.nan)
    assert torch.equal(bits(fp8_gemm_nt(*operands, out)), bits(expected))


def test_a_result_can_be_allocated_by_public_functions(
    operands: tuple[Operand, Operand], expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "product", None)
    monkeypatch.setattr(quick, "_allocate", quick._allocate_publicly)
    assert torch.equal(bits(fp8_gemm_nt(*operands)), bits(expected))


@pytest.mark.parametrize("allocate", [False, True])
def test_host_time_of_a_warm_call(allocate: bool) -> None:
    """At most HOST_TIME_LIMIT_US, or where the host is slow what PyTorch takes for a product."""
    lhs, rhs = make_inputs(16, 64, 128, device="cuda")
    x, w = torch.randn(16, 128, device="cuda").bfloat16(), torch.randn(128, 64, device="cuda").bfloat16()
    out = None if allocate else torch.empty(16, 64, dtype=torch.bfloat16, device="cuda")
    # The least of several: what else the machine does must not count.
    best = min(host_time(lambda: fp8_gemm_nt(lhs, rhs, out)) for _ in range(5))
    torch_takes = min(host_time(lambda: torch.mm(x, w, out=out)) for _ in range(5))
    assert best <= max(HOST_TIME_LIMIT_US, torch_takes), f"torch.mm takes {torch_takes:.1f} us"


def test_sizes_of_one_configuration_share_a_kernel(caplog: pytest.LogCaptureFixture) -> None:
    """M, N and K arrive with a call: for another size a kernel is neither compiled nor loaded again."""
    num_sms = torch.cuda.get_device_properties().multi_processor_count
    first, *others = (129, 264, 1040), (130, 264, 1040), (129, 272, 1040), (129, 264, 1056)
    config = dispatch.select(GemmProblem(*first, num_sms=num_sms))
    fp8_gemm_nt(*make_inputs(*first, device="cuda"))
    caplog.set_level(logging.DEBUG, logger="cute_gemm")
    for size in others:
        assert dispatch.select(GemmProblem(*size, num_sms=num_sms)) == config
        (a, sa), (b, sb) = make_inputs(*size, device="cuda")
        assert_correct(fp8_gemm_nt((a, sa), (b, sb)), a, sa, b, sb)
    assert caplog.text == ""


def test_who_has_compiled_all_configurations_never_compiles(caplog: pytest.LogCaptureFixture) -> None:
    """As the session has, before its first test: whatever is chosen is one of them."""
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


def test_this_machine_is_served_by_kernels() -> None:
    """A guard for this level of tests: they must not pass by way of the reference."""
    assert ops._kernels(torch.cuda.current_device()).__name__ == "cute_gemm.runtime.dispatch"
