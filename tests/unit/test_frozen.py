"""Frozen dataclasses of the package's own: as the standard library's, in all that is looked at."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from dataclasses import dataclass as standard
from dataclasses import field
from typing import Any, ClassVar

import pytest

from cute_gemm import settings
from cute_gemm.frozen import dataclass as own
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import MASKED

KINDS = [
    pytest.param(make, slots, id=f"{make.__module__}-{slots}") for make in (standard, own) for slots in (0, 1)
]


def made(make: Callable[..., Any], slots: bool, **asked: Any) -> Any:
    class Point:
        """A class with all that fields may have."""

        x: int
        y: float = 2.0
        names: list[str] = field(default_factory=list)
        hidden: str = field(default="h", repr=False, compare=False)
        length: float = field(init=False, default=0.0)
        made: list[str] = field(init=False, default_factory=list, repr=False, compare=False)
        four: int = field(init=False, default=4, repr=False, compare=False)
        unset: int = field(init=False, repr=False, compare=False)
        kind: ClassVar[str] = "k"

        def __post_init__(self) -> None:
            object.__setattr__(self, "length", self.x * self.y)

    Point.__qualname__ = "Point"
    return make(frozen=True, slots=bool(slots), **asked)(Point)


@pytest.mark.parametrize(("make", "slots"), KINDS)
def test_instances_are_as_the_standard_librarys(make: Callable[..., Any], slots: bool) -> None:
    kind = made(make, slots)
    one = kind(3, names=("a",))
    assert repr(one) == "Point(x=3, y=2.0, names=('a',), length=6.0)"
    assert (one.hidden, one.kind, hasattr(one, "__dict__")) == ("h", "k", not slots)
    assert one == kind(3, 2.0, ("a",), "other") != kind(4, 2.0, ("a",))
    assert hash(one) == hash(kind(3, 2.0, ("a",), "other")) == hash((3, 2.0, ("a",), 6.0))
    assert one != (3, 2.0, ("a",), 6.0)
    assert (one.made, one.four, hasattr(one, "unset")) == ([], 4, False)
    assert kind(1).names == []
    assert kind(1).names is not kind(1).names
    assert dataclasses.replace(one, x=4) == kind(4, 2.0, ("a",))
    names = [each.name for each in dataclasses.fields(kind)]
    assert names == ["x", "y", "names", "hidden", "length", "made", "four", "unset"]
    assert kind.__match_args__ == ("x", "y", "names", "hidden")
    assert kind.__dataclass_params__.frozen
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        kind()
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        kind(1, z=1)


@pytest.mark.parametrize(("make", "slots"), KINDS)
def test_nothing_is_assigned_or_deleted(make: Callable[..., Any], slots: bool) -> None:
    one = made(make, slots)(3)
    with pytest.raises(dataclasses.FrozenInstanceError, match=r"^cannot assign to field 'x'$"):
        one.x = 4
    with pytest.raises(dataclasses.FrozenInstanceError, match=r"^cannot delete field 'x'$"):
        del one.x
    # The standard library's has lost the class to `super` where there are slots.
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        one.z = 4


@pytest.mark.parametrize(("make", "slots"), KINDS)
def test_signatures_are_alike(make: Callable[..., Any], slots: bool) -> None:
    expected = inspect.signature(made(standard, slots))
    assert str(inspect.signature(made(make, slots))) == str(expected)


@pytest.mark.parametrize(("make", "slots"), KINDS)
def test_those_that_are_told_apart_by_what_they_are(make: Callable[..., Any], slots: bool) -> None:
    kind = made(make, slots, eq=False)
    one = kind(3)
    assert one == one != kind(3)
    assert hash(one) == object.__hash__(one)


@pytest.mark.parametrize("make", [standard, own])
def test_methods_of_the_class_stay(make: Callable[..., Any]) -> None:
    class Same:
        """A class."""

        x: int

        def __repr__(self) -> str:
            return "mine"

        def __eq__(self, other: object) -> bool:
            return True

    kind = make(frozen=True)(Same)
    assert (repr(kind(1)), kind(1) == kind(2), hash(kind(1))) == ("mine", True, hash((1,)))


@pytest.mark.parametrize("make", [standard, own])
def test_a_subclass_may_have_attributes(make: Callable[..., Any]) -> None:
    class Below(make(frozen=True)(type("Above", (), {"__annotations__": {"x": int}, "__doc__": "A class."}))):
        pass

    below = Below(1)
    below.y = 2
    assert (repr(below), below.y) == (f"{Below.__qualname__}(x=1)", 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        below.x = 2


@pytest.mark.parametrize("make", [standard, own])
@pytest.mark.parametrize("slots", [False, True])
def test_one_inherits_from_another(make: Callable[..., Any], slots: bool) -> None:
    kind = made(make, slots)
    kind.__post_init__ = lambda self: None

    class More(kind):
        """It has more."""

        z: int = 5

    more = make(frozen=True, slots=slots)(More)
    one = more(1, names=("a",), z=6)
    assert repr(one) == f"{More.__qualname__}(x=1, y=2.0, names=('a',), length=0.0, z=6)"
    assert one == dataclasses.replace(one) != more(1, names=("a",))
    assert one != kind(1, names=("a",))
    for name in ("x", "z"):
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"^cannot assign to field '{name}'$"):
            setattr(one, name, 4)


def test_only_frozen_ones_are_made() -> None:
    with pytest.raises(TypeError, match="only frozen"):
        own(frozen=False)


def test_records_of_the_package_are_copied_and_pickled() -> None:
    config = KernelConfig(64, 128, stages=4, layout=MASKED)
    for other in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config), copy.copy(config)):
        assert (other, hash(other), repr(other)) == (config, hash(config), repr(config))
    assert pickle.loads(pickle.dumps(settings.current())) == settings.current()
