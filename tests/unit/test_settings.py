"""Settings hold within their scope, for whoever entered it, and reach the choice and launch of kernels."""

import asyncio
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from calls import arguments, every_layout
from stand_ins import Device, stand_in

import cute_gemm
from cute_gemm import config, settings, testing
from cute_gemm.plan import cost_model, launch_policy
from cute_gemm.plan.launch_policy import LaunchFlags
from cute_gemm.plan.layouts import DENSE, Layout
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.runtime import launcher


def in_force() -> tuple[int | None, bool]:
    now = settings.current()
    return now.num_sms, now.batch_invariant


def test_scopes_nest_and_an_inner_one_changes_what_it_names() -> None:
    assert in_force() == (None, False)
    with config(num_sms=100):
        assert in_force() == (100, False)
        with config(batch_invariant=True):
            assert in_force() == (100, True)
            with config(num_sms=None):
                assert in_force() == (None, True)
            with config(num_sms=7, batch_invariant=False):
                assert in_force() == (7, False)
            assert in_force() == (100, True)
        assert in_force() == (100, False)
    assert in_force() == (None, False)


def test_dependent_launch_is_a_setting_like_the_others() -> None:
    assert settings.current().pdl is None
    with config(pdl=True):
        assert in_force() == (None, False)
        with config(num_sms=100, batch_invariant=True):
            assert settings.current().pdl
            with config(pdl=False):
                assert not settings.current().pdl
                assert in_force() == (100, True)
            assert settings.current().pdl
            with config(pdl=None):
                assert settings.current().pdl is None
    assert settings.current().pdl is None


def test_a_scope_ends_with_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), config(num_sms=3), config(batch_invariant=True):
        raise ZeroDivisionError
    assert in_force() == (None, False)


def test_a_scope_keeps_what_is_around_it_wherever_it_is_entered() -> None:
    scope = config(num_sms=3)
    for _ in range(2):
        with scope:
            assert settings.current() == settings.Settings(num_sms=3)
        with config(pdl=True), scope:
            assert settings.current() == settings.Settings(num_sms=3, pdl=True)
    assert settings.current() == settings.Settings()


def test_one_scope_may_be_entered_within_itself_and_again() -> None:
    scope = config(num_sms=3)
    for _ in range(2):
        with scope, config(num_sms=4), scope:
            assert in_force() == (3, False)
        assert in_force() == (None, False)


def test_a_decorator_is_in_force_while_its_function_runs() -> None:
    @config(num_sms=3)
    def factorial(n: int) -> int:
        """Says what it does."""
        assert in_force() == (3, False)
        return n * factorial(n - 1) if n else 1

    assert in_force() == (None, False)
    assert factorial(4) == 24
    assert factorial.__doc__ == "Says what it does."
    assert in_force() == (None, False)


async def coroutine() -> None: ...


def generator() -> Iterator[None]:
    yield


async def async_generator() -> Any:
    yield


@pytest.mark.parametrize("later", [coroutine, generator, async_generator])
def test_what_runs_after_its_call_cannot_be_decorated(later: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match=rf"^{later.__name__} runs after .*enter the scope within it"):
        config(num_sms=3)(later)


class Later:
    async def __call__(self) -> None: ...


@pytest.mark.parametrize("later", [functools.partial(coroutine), Later()], ids=["partial", "object"])
def test_what_hides_that_it_runs_later_cannot_be_decorated(later: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match=r" runs after it was called: enter the scope within it"):
        config(num_sms=3)(later)


@pytest.mark.parametrize(
    "what",
    [5, None, "f", property(int), classmethod(int), staticmethod(in_force), int],
    ids=lambda what: type(what).__name__,
)
def test_what_is_no_function_cannot_be_decorated(what: Any) -> None:
    with pytest.raises(TypeError, match=r"^cannot decorate .*; want "):
        config(num_sms=3)(what)


def test_objects_that_are_called_can_be_decorated() -> None:
    assert config(num_sms=3)(functools.partial(in_force))() == (3, False)


def test_a_scope_that_was_not_entered_cannot_be_left() -> None:
    """Not even within another, whose settings stay: a check that holds under `python -O`, too."""
    stray = config(batch_invariant=True)
    for scope in (nullcontext(), config(num_sms=3)):
        with scope:
            before = in_force()
            with pytest.raises(RuntimeError, match=r"^left a scope .* not the innermost one in force"):
                stray.__exit__(None, None, None)
            assert in_force() == before
    assert in_force() == (None, False)


def test_scopes_are_left_in_the_opposite_order() -> None:
    outer, inner = config(num_sms=3), config(num_sms=4)
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(RuntimeError, match="in the opposite order"):
        outer.__exit__(None, None, None)
    assert in_force() == (4, False)
    inner.__exit__(None, None, None)
    assert in_force() == (3, False)
    outer.__exit__(None, None, None)
    assert in_force() == (None, False)


def test_no_rule_of_callers_is_an_assertion() -> None:
    """Python leaves those out under `-O`."""
    package = Path(cute_gemm.__file__).parent
    files = [package / "settings.py", package / "reference.py"]
    files += [
        path for room in ("ops", "contract", "plan", "quantize") for path in (package / room).rglob("*.py")
    ]
    assert [path.name for path in files if "assert " in path.read_text()] == []


def test_threads_have_settings_of_their_own() -> None:
    scope, meet, seen = config(num_sms=3), threading.Barrier(2), {}

    def work(name: str, num_sms: int | None) -> None:
        seen[name, "before"] = in_force()
        with config(num_sms=num_sms), scope if num_sms is None else config(batch_invariant=True):
            meet.wait(10)
            seen[name, "within"] = in_force()
            meet.wait(10)
        seen[name, "after"] = in_force()

    with config(num_sms=50):
        threads = [threading.Thread(target=work, args=each) for each in (("a", 1), ("b", None))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert in_force() == (50, False)
    assert seen.pop(("a", "within")) == (1, True)
    assert seen.pop(("b", "within")) == (3, False)
    # Nothing of the starting thread's, nor of each other's.
    assert set(seen.values()) == {(None, False)}
    assert len(seen) == 4


def test_tasks_have_settings_of_their_own_and_start_with_their_creators() -> None:
    async def work(num_sms: int) -> tuple[Any, ...]:
        before = in_force()
        with config(num_sms=num_sms):
            await asyncio.sleep(0)
            within = in_force()
        return before, within, in_force()

    async def main() -> list[tuple[Any, ...]]:
        with config(batch_invariant=True):
            return await asyncio.gather(*(work(num_sms) for num_sms in (1, 2)))

    for num_sms, seen in zip((1, 2), asyncio.run(main()), strict=True):
        assert seen == ((None, True), (num_sms, True), (None, True))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"num_sms": 0}, ValueError, "num_sms is 0; want at least 1, or None"),
        ({"num_sms": -3}, ValueError, "num_sms is -3"),
        ({"num_sms": 1.0}, TypeError, "num_sms is 1.0; want an int, or None"),
        ({"num_sms": True}, TypeError, "num_sms is True"),
        ({"batch_invariant": 1}, TypeError, "batch_invariant is 1; want a bool"),
        ({"batch_invariant": None}, TypeError, "batch_invariant is None"),
        ({"pdl": 1}, TypeError, "pdl is 1; want a bool, or None for where it pays"),
    ],
)
def test_bad_settings_are_refused_before_a_scope_is_entered(
    given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        config(**given)


# What becomes of them


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    with stand_in(monkeypatch) as device:
        yield device


def multiply(layout: Layout = DENSE) -> None:
    launcher.launch_checked(arguments(layout).checked())


@every_layout
def test_settings_reach_the_choice_and_the_launch(layout: Layout, device: Device) -> None:
    multiply(layout)
    bare = device.problems[-1][0]
    assert (bare.num_sms, bare.batch_invariant) == (132, False)
    for num_sms, batch_invariant in ((None, False), (100, False), (100, True), (132, True), (None, False)):
        launcher.forget()
        with config(num_sms=num_sms, batch_invariant=batch_invariant):
            multiply(layout)
        sms, flags = device.launches[-1][5:7]
        wanted = replace(bare, num_sms=num_sms or 132, batch_invariant=batch_invariant)
        assert (device.problems[-1][0], sms) == (wanted, num_sms or 132)
        assert (LaunchFlags.PDL in LaunchFlags(flags)) == (num_sms is None)


@every_layout
def test_dependent_launch_reaches_the_launch_alone(layout: Layout, device: Device) -> None:
    for wanted in (False, True, False, True):
        launcher.forget()
        with config(pdl=wanted):
            multiply(layout)
    every = [launched[6] for launched in device.launches]
    assert [flags & LaunchFlags.PDL for flags in every] == [0, 1, 0, 1]
    assert len({flags & ~LaunchFlags.PDL for flags in every}) == 1
    assert {type(flags) for flags in every} == {int}, "kernels take an Int32"
    assert len({problem for problem, _ in device.problems}) == 1


@every_layout
def test_launches_are_dependent_by_themselves_where_that_pays_and_all_of_a_device_is_used(
    layout: Layout, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_dependent(**given: Any) -> bool:
        launcher.forget()
        with config(**given):
            multiply(layout)
        return bool(device.launches[-1][6] & LaunchFlags.PDL)

    assert is_dependent()
    assert is_dependent(pdl=None)
    assert is_dependent(num_sms=None)
    # Also where the number is that of all.
    assert not is_dependent(num_sms=132)
    assert not is_dependent(num_sms=100, pdl=None)
    assert is_dependent(num_sms=100, pdl=True)
    monkeypatch.setattr(launch_policy, "dependent_launch_pays", lambda problem, config: False)
    assert not is_dependent()
    assert is_dependent(pdl=True)


def test_more_multiprocessors_than_there_are_are_refused(device: Device) -> None:
    message = r"^config\(num_sms=133\) is in force, but cuda:-1 has 132 multiprocessors; want at most that"
    with config(num_sms=133):
        for _ in range(2):
            with pytest.raises(ValueError, match=message):
                multiply()
    assert not device.launches
    multiply()
    assert device.launches


@every_layout
@pytest.mark.parametrize("num_sms", [1, 2, 3, 7, 100, 132])
def test_no_cluster_is_larger_than_what_may_be_used(num_sms: int, layout: Layout) -> None:
    sizes = set()
    for m in (1, 64, 4096):
        problem = GemmProblem(m, 2112, 7168, num_sms=num_sms, layout=layout)
        sizes |= {choice.config.cluster_size for choice in cost_model.rank(problem)}
    assert min(sizes) == 1
    assert max(sizes) <= num_sms
    assert max(sizes) >= min(num_sms, 2)


def test_the_reference_has_no_use_for_multiprocessors() -> None:
    lhs, rhs = testing.make_inputs(3, 16, 144)
    expected = cute_gemm.fp8_gemm_nt(lhs, rhs)
    with config(num_sms=10**6, batch_invariant=True, pdl=True):
        assert torch.equal(cute_gemm.fp8_gemm_nt(lhs, rhs), expected)
