"""The slow path: what it asks for, what it launches, and what the fast path finds of it."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from calls import arguments, every_grouped_layout, every_layout
from stand_ins import ON_THE_CPU, SEMAPHORE, Device, stand_in

from cute_gemm import config
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.launch_policy import LaunchFlags
from cute_gemm.plan.layouts import DENSE, LAYOUTS, MASKED, Layout
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.quantize import quantize_1x128
from cute_gemm.runtime import hardware, launcher
from cute_gemm.runtime.caller import Caller


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    with stand_in(monkeypatch) as device:
        yield device


def m_major(sa: torch.Tensor) -> torch.Tensor:
    """The same scales as TMA can load them."""
    *groups, rows, columns = sa.shape
    padded = -(-rows // 4) * 4
    view = torch.zeros(*groups, columns, padded)[..., :rows].mT
    return view.copy_(sa)


PROBLEMS: dict[str, GemmProblem] = {
    "dense": GemmProblem(5, 16, 144),
    "contiguous": GemmProblem(5, 16, 144, layout=LAYOUTS["contiguous"], groups=3),
    "offsets": GemmProblem(5, 16, 144, layout=LAYOUTS["offsets"], groups=3),
    # Four rows are expected of each matrix.
    "masked": GemmProblem(12, 16, 144, layout=LAYOUTS["masked"], groups=3),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("pdl", [False, True])
@every_layout
def test_a_call_asks_for_its_problem_and_hands_everything_over(
    device: Device, layout: Layout, pdl: bool, dtype: torch.dtype
) -> None:
    row_major = arguments(layout)
    staged = row_major.with_(sa=m_major(row_major.sa))
    out = row_major.new_out(dtype)
    with config(pdl=pdl):
        for each in (row_major, staged):
            assert launcher.launch_checked(each.checked(out)) is out
    problem = replace(PROBLEMS[layout.name], out_dtype=str(dtype).removeprefix("torch."))
    assert device.problems == [(problem, False), (problem, True)]
    for launched, given in zip(device.launches, (row_major, staged), strict=True):
        operands = given.a, given.sa, given.b, given.sb, out
        assert all(got is wanted for got, wanted in zip(launched[:5], operands, strict=True))
        num_sms, flags, semaphore, status, *grouping = launched[5:]
        # Operands that the contract has seen are not checked again.
        assert (num_sms, semaphore, status) == (132, 0, 0)
        assert (LaunchFlags.PDL in LaunchFlags(flags)) == pdl
        assert len(grouping) == len(given.grouping)
        assert all(got is wanted for got, wanted in zip(grouping, given.grouping, strict=True))
    assert out._version == 2, "once for each launch"


@every_layout
def test_a_result_is_allocated_beside_the_operands(device: Device, layout: Layout) -> None:
    given = arguments(layout)
    result = launcher.launch_checked(given.checked(out_dtype=torch.float32))
    assert (result.shape, result.dtype, result.is_contiguous()) == (given.shape, torch.float32, True)
    assert device.launches[0][4] is result


@every_grouped_layout
def test_a_launch_says_whether_rows_of_no_group_are_filled(device: Device, layout: Layout) -> None:
    """The first one, for which a kernel is chosen, and those that find it."""
    call = arguments(layout).checked()
    for fill in (0, 0, None):
        launcher.launch_checked(replace(call, fill=fill))
    flags = [LaunchFlags(launched[6]) for launched in device.launches]
    assert [LaunchFlags.FILL in each for each in flags] == [True, True, False]
    assert flags[0] == flags[2] | LaunchFlags.FILL
    assert len(device.made) == 1


def test_more_rows_cannot_be_expected_than_there_are(device: Device) -> None:
    launcher.launch_checked(arguments(MASKED).with_(count=50).checked())
    assert device.problems == [(replace(PROBLEMS["masked"], m=15), False)]


@pytest.mark.parametrize("pdl", [False, True])
@every_layout
def test_a_kernel_that_draws_gets_a_semaphore(device: Device, layout: Layout, pdl: bool) -> None:
    pair = KernelConfig(128, 64, 4, cluster_n=2, layout=layout, dynamic_persistence=True)
    device.choose = lambda problem: pair
    # As many rows in each group, whatever is expected.
    large = arguments(layout, n=4096, k=1024, rows=1024, groups=4).with_(count=1024)
    with config(pdl=pdl):
        launcher.launch_checked(large.checked())
    assert device.launches[0][7] == SEMAPHORE


def test_a_shape_is_thought_about_once(device: Device) -> None:
    for rows in (3, 3, 4):
        launcher.launch_checked(arguments(DENSE, rows=rows).checked())
    assert [problem.m for problem, _ in device.problems] == [3, 4]
    assert len(device.launches) == 3
    launcher.forget()
    launcher.launch_checked(arguments(DENSE, rows=3).checked())
    assert [problem.m for problem, _ in device.problems] == [3, 4, 3]


def test_a_known_call_asks_nothing(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    call = arguments(DENSE).checked()
    launcher.launch_checked(call)
    for name in ("is_initialized", "is_current_stream_capturing"):
        monkeypatch.setattr(torch.cuda, name, None)
    monkeypatch.setattr(hardware, "card", None)
    launcher.launch_checked(call)


@every_layout
def test_what_was_launched_is_found_by_the_fast_path(
    device: Device, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, found = arguments(layout), []
    out = given.new_out()
    launcher.launch_checked(given.checked(out))
    monkeypatch.setattr(launcher, "several_devices", lambda: found.append(layout) or False)
    launcher.launch(layout, *given.pairs, out, torch.bfloat16, given.index, given.count)
    assert found == [layout]
    launcher.forget()
    launcher.launch(layout, *given.pairs, out, torch.bfloat16, given.index, given.count)
    assert found == [layout]


def test_memory_is_bounded(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_MOST", 3)
    for rows in range(1, 9):
        launcher.launch_checked(arguments(DENSE, rows=rows).checked())
        assert 1 <= len(launcher._launches) <= 3


def loose(x: torch.Tensor) -> torch.Tensor:
    """The same memory, with strides of extents of 1 that no tensor map holds."""
    strides = [7 if count == 1 else step for count, step in zip(x.shape, x.stride(), strict=True)]
    return x.as_strided(x.shape, strides)


@pytest.mark.parametrize(("rows", "groups"), [(1, 1), (1, 3), (5, 1)])
@every_layout
def test_strides_of_extents_of_1_are_made_what_kernels_are_compiled_for(
    device: Device, layout: Layout, rows: int, groups: int
) -> None:
    given = arguments(layout, rows=rows, groups=groups)
    out = given.new_out()
    changed = given.with_(
        a=loose(given.a), b=loose(given.b), index=None if given.index is None else loose(given.index)
    )
    launcher.launch_checked(changed.checked(loose(out)))
    (launched,) = device.launches
    for x, original in ((launched[0], given.a), (launched[2], given.b), (launched[4], out)):
        assert x.data_ptr() == original.data_ptr()
        assert x.shape == original.shape
        assert all(step % 16 == 0 for step in x.stride()[:-1])
        assert x.stride(-1) == 1
    assert all(x.stride() == (1,) for x in launched[9:10])


def test_another_device_is_made_the_current_one(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[Any] = []

    class Entered:
        def __init__(self, index: int) -> None:
            entered.append(index)

        def __enter__(self) -> None:
            entered.append("in")

        def __exit__(self, *_: object) -> None:
            entered.append("out")

    monkeypatch.setattr(torch.cuda, "device", Entered)
    launcher.launch_checked(arguments(DENSE).checked())
    assert not entered
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 5)
    launcher.launch_checked(arguments(DENSE).checked())
    assert entered == [ON_THE_CPU, "in", "out"]


def test_another_device_than_a_hopper_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher.require_hopper.cache_clear()
    monkeypatch.setattr(hardware, "is_hopper", lambda index: False)
    monkeypatch.setattr(hardware, "describe", lambda index: "NVIDIA L4 (compute capability 8.9)")
    call = arguments(DENSE).checked()
    with pytest.raises(RuntimeError, match=r"which is NVIDIA L4 \(compute capability 8.9\); wanted a Hopper"):
        launcher.launch_checked(call)
    # Only success is remembered.
    monkeypatch.setattr(hardware, "is_hopper", lambda index: True)
    launcher.require_hopper(ON_THE_CPU)
    launcher.require_hopper.cache_clear()


def test_a_result_is_as_it_was_where_no_kernel_can_be_made(device: Device) -> None:
    given = arguments(DENSE)
    out = given.new_out()
    device.broken = True
    with pytest.raises(RuntimeError, match="does not compile"):
        launcher.launch_checked(given.checked(out))
    assert out._version == 0
    assert not launcher._launches


# Scales that TMA can load


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "can"),
    [
        ((6, 3), (1, 8), 0, True),
        ((6, 1), (1, 8), 4, True),
        ((2, 6, 3), (24, 1, 8), 0, True),
        ((2, 6, 3), (8, 1, 16), 0, True),
        ((6, 3), (3, 1), 0, False),
        ((6, 3), (1, 6), 0, False),
        ((6, 3), (1, 8), 1, False),
        ((6, 3), (4, 8), 0, False),
        ((2, 6, 3), (25, 1, 8), 0, False),
        # Overlapping, or the same for all k-blocks, or matrices.
        ((6, 3), (1, 4), 0, False),
        ((2, 6, 3), (4, 1, 8), 0, False),
        ((6, 3), (1, 0), 0, False),
        ((2, 6, 3), (0, 1, 8), 0, False),
    ],
)
def test_tma_loads_scales_that_are_m_major_and_aligned(
    shape: tuple[int, ...], strides: tuple[int, ...], offset: int, can: bool
) -> None:
    memory = torch.zeros(64)
    assert memory.data_ptr() % 16 == 0
    assert launcher.tma_can_load(memory.as_strided(shape, strides, offset)) is can


def test_tma_loads_no_scales_that_are_further_apart_than_its_maps_say() -> None:
    """Of an extent of 1 the stride is whatever it is."""
    memory = torch.zeros(8)
    assert launcher.tma_can_load(memory.as_strided((6, 1), (1, 2**38 - 4)))
    assert not launcher.tma_can_load(memory.as_strided((6, 1), (1, 2**38)))
    assert not launcher.tma_can_load(memory.as_strided((1, 6, 1), (2**38, 1, 8)))


def test_quantised_rows_have_scales_that_tma_cannot_load_unless_asked() -> None:
    """Row-major is what users have; `m_major` is what they may ask for."""
    _, scales = quantize_1x128(torch.randn(6, 256))
    assert not launcher.tma_can_load(scales)
    assert launcher.tma_can_load(m_major(scales))
    assert launcher.tma_can_load(m_major(arguments(MASKED).sa))


@every_layout
def test_a_kernel_whose_first_launch_failed_is_not_captured(device: Device, layout: Layout) -> None:
    """It may not have been loaded."""
    call = arguments(layout).checked()
    device.failing = True
    with pytest.raises(RuntimeError, match="does not launch"):
        launcher.launch_checked(call)
    device.failing, device.capturing = False, True
    with pytest.raises(RuntimeError, match="once before the capture"):
        launcher.launch_checked(call)
    device.capturing = False
    launcher.launch_checked(call)
    device.capturing = True
    launcher.launch_checked(call)
    assert len(device.launches) == 2


def test_a_thread_gets_ready_once_and_not_before_cuda_is_used(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that imports the package, too: another may have been the first to use CUDA."""
    answers, asked = [False, True], []

    def make_context_current() -> bool:
        asked.append(threading.current_thread().name)
        return answers.pop(0) if answers else True

    monkeypatch.setattr(hardware, "make_context_current", make_context_current)
    monkeypatch.setattr(launcher, "caller", Caller())
    call = arguments(DENSE).checked()
    for _ in range(4):
        launcher.launch_checked(call)
    here = threading.current_thread().name
    assert asked == [here] * 2
    other = threading.Thread(target=launcher.launch_checked, args=(call,), name="other")
    other.start()
    other.join()
    assert asked == [here] * 2 + ["other"]
