"""How a kernel is chosen for a call, what it is launched with, and when a choice is refused."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from stand_ins import SEMAPHORE, Device, stand_in

from cute_gemm.plan import candidates, cost_model, launch_policy
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.launch_policy import LaunchFlags
from cute_gemm.plan.layouts import DENSE, MASKED, OFFSETS
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.runtime import selection

LOW, TALL = KernelConfig(64, 64, 4), KernelConfig(256, 128, 4, cluster_m=2)
PAIR = KernelConfig(128, 64, 4, cluster_n=2, dynamic_persistence=True)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """Few rows take one kernel, many another."""
    with stand_in(monkeypatch) as device:
        device.choose = lambda problem: LOW if problem.m <= 64 else TALL
        yield device


def choose(m: int, n: int = 8, device: int = 0, pdl: bool = False) -> None:
    """Chooses and prepares a kernel, whose launch then succeeds."""
    problem = GemmProblem(m, n, 16)
    config = selection.choose(problem, False, device)
    selection.prepare(problem, config, pdl)
    selection.note_launched(config, device)


def test_a_kernel_for_the_scales_that_there_are_is_selected() -> None:
    problem = GemmProblem(4096, 2112, 7168)
    config, staged = selection.select(problem), selection.select(problem, True)
    assert not config.tma_scales
    assert config == candidates.as_run(problem, cost_model.best(problem), False)
    assert staged == replace(config, tma_scales=True) == candidates.as_run(problem, config, True)


def test_a_kernel_is_not_first_called_within_a_capture(device: Device) -> None:
    device.capturing = True
    advice = "make the same call, scales laid out alike, once before the capture"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=advice) as info:
            choose(3)
        assert f"M = 3, N = 8, K = 16 needs the kernel {LOW.name}" in str(info.value)
    assert not device.made
    device.capturing = False
    choose(3)
    device.capturing = True
    choose(3)
    assert set(device.made) == {LOW}


def test_new_shapes_of_a_kernel_that_was_called_are_captured(device: Device) -> None:
    choose(3)
    device.capturing = True
    choose(64)
    choose(3, n=16)
    with pytest.raises(RuntimeError, match=TALL.name):
        choose(65)


def test_a_kernel_is_the_same_with_dependent_launch(device: Device) -> None:
    choose(3)
    device.capturing = True
    choose(3, pdl=True)
    assert set(device.made) == {LOW}


def test_a_refusal_says_how_many_groups_there_are(device: Device) -> None:
    device.capturing = True
    with pytest.raises(RuntimeError, match=r"^M = 20, N = 8, K = 16, 3 groups needs the kernel"):
        selection.choose(GemmProblem(20, 8, 16, layout=OFFSETS, groups=3), False, 0)
    with pytest.raises(RuntimeError, match=r"^3 x 5 expected rows, N = 8, K = 16, 3 groups needs the kernel"):
        selection.choose(GemmProblem(15, 8, 16, layout=MASKED, groups=3), False, 0)


def test_each_device_has_its_own_first_call(device: Device) -> None:
    choose(3)
    device.capturing = True
    with pytest.raises(RuntimeError, match="was not called on cuda:1 before"):
        choose(3, device=1)


def test_a_kernel_that_could_not_be_made_was_not_called(device: Device) -> None:
    device.broken = True
    with pytest.raises(RuntimeError, match="does not compile"):
        choose(3)
    device.capturing = True
    with pytest.raises(RuntimeError, match="before the capture"):
        choose(3)


@pytest.mark.parametrize("pdl", [False, True])
@pytest.mark.parametrize("layout", [DENSE, OFFSETS], ids=lambda layout: layout.name)
def test_a_kernel_is_launched_as_policy_says(device: Device, layout: object, pdl: bool) -> None:
    problem = GemmProblem(4096, 4096, 1024, num_sms=100, layout=layout, groups=1)
    launch = selection.prepare(problem, replace(PAIR, layout=layout), pdl)
    flags = launch_policy.launch_flags(problem, PAIR, pdl)
    assert launch[1:] == (100, flags, True)
    assert type(launch.flags) is int, "kernels take an Int32"
    assert (LaunchFlags.PDL in LaunchFlags(launch.flags)) == pdl


def test_options_of_a_launch() -> None:
    """A semaphore where tiles are drawn, and an address for the answer where operands are to be checked."""
    drawn = selection.Launch(print, 132, 6, True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(selection.semaphores, "address", lambda device: SEMAPHORE + device)
        assert drawn.options(1) == (132, 6, SEMAPHORE + 1, 0)
        assert drawn.options(0, status=64) == (132, 6, SEMAPHORE, 64)
        assert drawn.options(0, more_flags=8) == (132, 14, SEMAPHORE, 0)
        assert drawn._replace(is_drawn=False).options(1) == (132, 6, 0, 0)
