"""`dataclass(frozen=True)`, of which a class is made in a fifth of the time.

The standard library's compiles six methods for each class, and forty classes of this package are made before
a process has its first kernel: a quarter of the time that this took. Here `__init__` alone is compiled, and
the other methods look fields up by their names. All else is the standard library's: `fields`, `replace`,
`asdict` and `field` are for both, and to type checkers the two are one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError
from operator import attrgetter
from typing import TYPE_CHECKING, Any

_set = object.__setattr__


class _Factory:
    """Stands in a signature for what a field's factory makes, as in the standard library's."""

    def __repr__(self) -> str:
        return "<factory>"


_FACTORY = _Factory()

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool, eq: bool = True, slots: bool = False) -> Callable[[type], type]:
        """As `dataclasses.dataclass`, of a class that is frozen; fields may be given by place and by name."""
        if not frozen:
            raise TypeError("only frozen dataclasses are made here; dataclasses.dataclass makes others")

        def make(kind: type) -> type:
            own = dict(vars(kind))
            # Of one that is frozen only what is may inherit; it compiles two methods, which are replaced.
            inherits = any(map(dataclasses.is_dataclass, kind.__bases__))
            kind = dataclasses.dataclass(init=False, repr=False, eq=False, frozen=inherits, slots=slots)(kind)
            parameters = kind.__dataclass_params__
            parameters.init = parameters.repr = parameters.frozen = True
            parameters.eq = eq
            fields = dataclasses.fields(kind)
            methods = [_init(kind, fields), _repr(fields), *_frozen(kind, fields)]
            if eq:
                methods += _comparing([each.name for each in fields if each.compare])
            if slots:
                methods += _pickling([each.name for each in fields])
            for method in methods:
                name = method.__name__
                # A class that has only `__eq__` of its own has None for a hash.
                if own.get(name) is None:
                    method.__qualname__ = f"{kind.__qualname__}.{name}"
                    setattr(kind, name, method)
            return kind

        return make


Fields = tuple["dataclasses.Field[Any]", ...]
Method = Callable[..., Any]


def _init(kind: type, fields: Fields) -> Method:
    """Compiled, as instances are made in loops."""
    # By this spelling Dynamo knows an assignment that `__setattr__` of the class does not see.
    space: dict[str, Any] = {"_object": object, "_FACTORY": _FACTORY}
    parameters, lines = ["self"], []
    for each in fields:
        name, default = each.name, each.default
        value = name if each.init else f"_default_{name}"
        if each.default_factory is not MISSING:
            space[f"_new_{name}"], default = each.default_factory, _FACTORY
            value = f"_new_{name}() if {value} is _FACTORY else {value}"
        if default is not MISSING:
            space[f"_default_{name}"] = default
        elif not each.init:
            continue
        if each.init:
            parameters.append(name if default is MISSING else f"{name}=_default_{name}")
        lines.append(f" _object.__setattr__(self, {name!r}, {value})")
    if hasattr(kind, "__post_init__"):
        lines.append(" self.__post_init__()")
    body = "\n".join(lines) or " pass"
    exec(f"def __init__({', '.join(parameters)}):\n{body}", space)
    made: Method = space["__init__"]
    made.__annotations__ = {each.name: each.type for each in fields if each.init} | {"return": None}
    return made


def _repr(fields: Fields) -> Method:
    names = [each.name for each in fields if each.repr]

    def __repr__(self: Any) -> str:
        values = ", ".join([f"{name}={getattr(self, name)!r}" for name in names])
        return f"{type(self).__qualname__}({values})"

    return __repr__


def _frozen(kind: Any, fields: Fields) -> tuple[Method, Method]:
    names = frozenset(each.name for each in fields)

    def __setattr__(self: Any, name: str, value: object) -> None:
        if type(self) is kind or name in names:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        super(kind, self).__setattr__(name, value)

    def __delattr__(self: Any, name: str) -> None:
        if type(self) is kind or name in names:
            raise FrozenInstanceError(f"cannot delete field {name!r}")
        super(kind, self).__delattr__(name)

    return __setattr__, __delattr__


def _comparing(names: list[str]) -> tuple[Method, Method]:
    values: Method = attrgetter(*names) if len(names) > 1 else lambda of: tuple(getattr(of, n) for n in names)

    def __eq__(self: Any, other: object) -> Any:
        return values(self) == values(other) if type(other) is type(self) else NotImplemented

    def __hash__(self: Any) -> int:
        return hash(values(self))

    return __eq__, __hash__


def _pickling(names: list[str]) -> tuple[Method, Method]:
    """Of instances without a dictionary, which pickle would fill by assignment."""

    def __getstate__(self: Any) -> list[Any]:
        return [getattr(self, name) for name in names]

    def __setstate__(self: Any, state: list[Any]) -> None:
        for name, value in zip(names, state, strict=True):
            _set(self, name, value)

    return __getstate__, __setstate__
