"""What the dispatcher asks for and when it refuses, with stand-ins for kernels and for CUDA."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from cute_gemm import config, settings
from cute_gemm.contract import product as checks
from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.launch_policy import LaunchFlags
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.runtime import compiler as jit
from cute_gemm.runtime import dispatch, quick
from cute_gemm.runtime import semaphores as counters

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
        dispatch.fp8_gemm_nt(a, a, b, b, torch.zeros(m, n), m, n, 16, 0)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    device = Device()

    def select(problem: GemmProblem, tma_scales: bool) -> KernelConfig:
        return LOW if problem.m <= 64 else TALL

    monkeypatch.setattr(dispatch, "select", select)
    monkeypatch.setattr(dispatch, "instance", device.instance)
    monkeypatch.setattr(dispatch, "_launched", set())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: device.capturing)
    dispatch.forget()
    yield device
    dispatch.forget()


def test_a_kernel_is_not_first_called_within_a_capture(device: Device) -> None:
    device.capturing = True
    advice = "make the same call, scales laid out alike, once before the capture"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=advice) as info:
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


def test_a_kernel_is_the_same_with_dependent_launch(device: Device) -> None:
    device.call(3)
    device.capturing = True
    with config(pdl=True):
        device.call(3)
    assert set(device.made) == {LOW.name}


GROUPED: dict[str, tuple[Callable[..., None], tuple[int, ...], tuple[Any, ...], GemmProblem]] = {
    "contiguous": (
        dispatch.m_grouped_fp8_gemm_nt_contiguous,
        (20,),
        ("index",),
        GemmProblem(20, 8, 16, layout="contiguous", groups=3),
    ),
    "offsets": (
        dispatch.m_grouped_fp8_gemm_nt_offsets,
        (20,),
        ("ends", 16),
        GemmProblem(20, 8, 16, layout="offsets", groups=3),
    ),
    "masked": (
        dispatch.m_grouped_fp8_gemm_nt_masked,
        (3, 20),
        ("rows", 5),
        GemmProblem(15, 8, 16, layout="masked", groups=3),
    ),
    "masked, more expected than there can be": (
        dispatch.m_grouped_fp8_gemm_nt_masked,
        (3, 20),
        ("rows", 50),
        GemmProblem(60, 8, 16, layout="masked", groups=3),
    ),
}


@pytest.mark.parametrize("pdl", [False, True])
@pytest.mark.parametrize("case", GROUPED)
def test_a_grouped_call_asks_for_its_problem_and_hands_everything_over(
    device: Device, monkeypatch: pytest.MonkeyPatch, case: str, pdl: bool
) -> None:
    call, rows, grouping, problem = GROUPED[case]
    asked: list[tuple[GemmProblem, bool]] = []
    launched: list[tuple[Any, ...]] = []
    monkeypatch.setattr(dispatch, "select", lambda *problem: asked.append(problem) or LOW)
    monkeypatch.setattr(dispatch, "instance", lambda config: lambda *arguments: launched.append(arguments))
    a, b, out = torch.zeros(*rows, 16), torch.zeros(3, 8, 16), torch.zeros(*rows, 8, dtype=torch.bfloat16)
    sa, of_tma = torch.zeros(*rows, 3), torch.zeros(*rows[:-1], 3, rows[-1]).mT
    with config(pdl=pdl):
        call(a, sa, b, "sb", out, *grouping)
        call(a, of_tma, b, "sb", out, *grouping)
    assert asked == [(problem, False), (problem, True)]
    # What only shapes the choice of a kernel is not for the kernel.
    told = grouping[:1] if problem.layout == "masked" else grouping
    for arguments, scales in zip(launched, (sa, of_tma), strict=True):
        operands = a, scales, b, "sb", out
        assert all(got is wanted for got, wanted in zip(arguments[:5], operands, strict=True))
        assert arguments[5:] == (*dispatch._options(problem, LOW, pdl)[:2], 0, 0, *told)
    assert launched[0][5] == 132
    assert (LaunchFlags.PDL in LaunchFlags(launched[0][6])) == pdl


PAIR = KernelConfig(128, 64, 4, cluster_n=2)  # of which clusters draw their tiles


@pytest.mark.parametrize(("pdl", "address"), [(False, 4096), (True, 0)])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_kernel_that_draws_gets_a_counter(
    device: Device, monkeypatch: pytest.MonkeyPatch, grouped: bool, pdl: bool, address: int
) -> None:
    """Not by dependent launch, which such kernels would hold up."""
    launched: list[tuple[Any, ...]] = []
    layout = "contiguous" if grouped else "dense"
    monkeypatch.setattr(dispatch, "select", lambda *problem: replace(PAIR, layout=layout))
    monkeypatch.setattr(dispatch, "instance", lambda config: lambda *arguments: launched.append(arguments))
    monkeypatch.setattr(counters, "address", lambda device: 4096)
    m, n, k = 4096, 4096, 1024
    a, sa, out = torch.zeros(m, k), torch.zeros(m, 8), torch.zeros(m, n, dtype=torch.bfloat16)
    with config(pdl=pdl):
        if grouped:
            dispatch.m_grouped_fp8_gemm_nt_contiguous(a, sa, torch.zeros(1, n, k), sa, out, sa)
        else:
            dispatch.fp8_gemm_nt(a, sa, a, sa, out, m, n, k, 0)
    ((*_, counter, told),) = (arguments[:9] for arguments in launched)
    assert (counter, told) == (address, 0)


def test_what_was_launched_goes_the_short_way(device: Device) -> None:
    device.call(3)
    now = settings.current()
    key = (3, 8, 16, False, torch.float32, 0, now.num_sms, now.batch_invariant, now.pdl)
    assert list(quick._kernels) == [key]
    dispatch.forget()
    assert not quick._kernels


def test_a_refused_grouped_call_says_how_many_groups(device: Device) -> None:
    device.capturing = True
    with pytest.raises(RuntimeError, match=r"^M = 20, N = 8, K = 16, 3 groups needs the kernel"):
        dispatch._launcher("offsets", 3, 20, 8, 16, torch.zeros(20, 1), torch.float32, 0)
    with pytest.raises(RuntimeError, match=r"^3 x 5 expected rows, N = 8, K = 16, 3 groups needs the kernel"):
        dispatch._launcher("masked", 3, 15, 8, 16, torch.zeros(3, 5, 1), torch.float32, 0)


def test_each_device_has_its_own_first_call(device: Device) -> None:
    device.call(3)
    device.capturing = True
    with pytest.raises(RuntimeError, match="was not called on cuda:1 before"):
        dispatch._launcher("dense", 1, 3, 8, 16, torch.zeros(3, 1), torch.float32, 1)


def test_a_kernel_that_could_not_be_made_was_not_called(device: Device) -> None:
    device.broken = True
    with pytest.raises(RuntimeError, match="does not compile"):
        device.call(3)
    device.capturing = True
    with pytest.raises(RuntimeError, match="before the capture"):
        device.call(3)


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
    assert checks.tma_can_load(memory.as_strided(shape, strides, offset)) is can


def test_tma_loads_no_scales_that_are_further_apart_than_its_maps_say() -> None:
    """Of an extent of 1 the stride is whatever it is."""
    memory = torch.zeros(8)
    assert checks.tma_can_load(memory.as_strided((6, 1), (1, 2**38 - 4)))
    assert not checks.tma_can_load(memory.as_strided((6, 1), (1, 2**38)))
    assert not checks.tma_can_load(memory.as_strided((1, 6, 1), (2**38, 1, 8)))


def test_a_kernel_for_the_scales_that_there_are_is_chosen() -> None:
    problem = GemmProblem(4096, 2112, 7168)
    config, staged = dispatch.select(problem), dispatch.select(problem, True)
    assert not config.tma_scales
    assert staged == replace(config, tma_scales=True) == candidates.as_run(problem, config, True)


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
    monkeypatch.setattr(KernelConfig, "prefetch_scales", property(lambda self: False))
    dispatch.instance(LOW)
    assert keys[0] == keys[1] != keys[2]
    assert "('stage_bytes', 16384)" in repr(keys[0])
