"""Functions of epilogues: what tells one from another, within a process and between processes."""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import math
import re
import sys
import types
import weakref
from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Any

from torch import Tensor

from ..contract import words
from . import math as own_math

Function = Callable[..., Any]

_OWN_MODULE = f"{__package__}.builtin"
"""Names of its functions are kept from version to version, and tell what they do."""

_functions: defaultdict[int, weakref.WeakSet[Function]] = defaultdict(weakref.WeakSet)
"""Those that are registered, by the columns of a value that make one. Of functions that a program makes with
ever other numbers, it keeps those that it uses."""

_in_graphs: dict[tuple[str, int], Function] = {}
"""Those that graphs name, which have nothing of them but that: the process keeps them. There are as many as
calls were traced with, which torch.compile does of one call only so many times."""


def code_of(written: Function) -> Hashable:
    """A function by its code and by what it refers to: numbers, and other plain functions.

    Raises:
        TypeError: it refers to something else, whose value may change without being seen.
    """
    code = written.__code__
    closed = dict(zip(code.co_freevars, written.__closure__ or (), strict=True))
    named = {name: written.__globals__[name] for name in _globals_of(code) if name in written.__globals__}
    values = {name: cell.cell_contents for name, cell in closed.items()} | named
    values |= {f"a default of {written.__name__}": written.__defaults__ or ()}
    values |= written.__kwdefaults__ or {}
    return code, tuple((name, _value_of(written, name, value)) for name, value in values.items())


def name_of(written: Function) -> str:
    """What a function is called in other processes: by its own name alone where it is one of this package's.

    Else a digest of its instructions and of what it refers to follows. It depends on no path and no line, but
    on the version of Python.

    Raises:
        TypeError: as :func:`code_of`.
    """
    if written.__module__ == _OWN_MODULE:
        return written.__name__.lstrip("_")
    return f"{_plain_name(written)}@{_digest(code_of(written))}"


def register(written: Function, takes: int) -> str:
    """Has :func:`find` find a function by its name, which is returned, as long as something else keeps it.

    Args:
        written: the function.
        takes: columns of the value that make one.

    Raises:
        TypeError: as :func:`code_of`.
    """
    name = name_of(written)
    _functions[takes].add(written)
    return name


def name_in_graphs(written: Function, takes: int) -> str:
    """As :func:`register`, as long as the process lives."""
    name = register(written, takes)
    _in_graphs[name, takes] = written
    return name


def find(name: str, takes: int) -> Function:
    """The function that has a name now.

    Args:
        name: as of :func:`name_of`.
        takes: columns of the value that make one.

    Raises:
        RuntimeError: there is none in this process.
    """
    found = _in_graphs.get((name, takes))
    if found is not None and _has_name(found, name):
        return found
    # Of a graph that another process traced; or what a function refers to has changed since.
    for each in [*_functions[takes]]:
        if _has_name(each, name):
            _in_graphs[name, takes] = each
            return each
    plain, _, digest = name.partition("@")
    if not digest:
        raise RuntimeError(
            f"this version of cute_gemm has no epilogue {name!r}; wanted the one by which the call was traced"
        )
    decorated = "gated" if takes > 1 else "function"
    raise RuntimeError(
        f"a call was traced with the epilogue function {plain!r} of digest {digest}, which is not in this "
        f"process; wanted the module imported that has it, decorated by `epilogue.{decorated}`, with the "
        "numbers that it referred to then, under the same version of Python. For numbers that change, pass "
        "operands, or trace the call anew"
    )


def _has_name(written: Function, name: str) -> bool:
    if "@" not in name:
        return written.__module__ == _OWN_MODULE and name_of(written) == name
    if _plain_name(written) != name.partition("@")[0]:
        return False
    try:
        return name_of(written) == name
    except TypeError:
        # It refers to something else by now.
        return False


def _plain_name(written: Function) -> str:
    return re.sub(r"\W", "_", written.__name__)


@functools.lru_cache(1024)
def _digest(code: Hashable) -> str:
    return hashlib.sha256(_text(code).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _text(value: Any) -> str:
    """The same in every process of one version of Python."""
    if isinstance(value, types.CodeType):
        names = value.co_names, value.co_varnames, value.co_freevars, value.co_argcount
        return f"code {value.co_code.hex()} {names} {_text(value.co_consts)}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))})"
    if isinstance(value, frozenset):
        # Its own order is that of hashes.
        return f"{{{', '.join(sorted(map(_text, value)))}}}"
    return value.__qualname__ if isinstance(value, type) else repr(value)


def _value_of(written: Function, name: str, value: Any) -> Hashable:
    if isinstance(value, (int, float, type(None))):
        # As keys, 0.0 and -0.0 and False are one.
        return type(value), repr(value)
    if isinstance(value, tuple):
        return tuple(_value_of(written, name, each) for each in value)
    if inspect.isfunction(value):
        return value.__qualname__ if value is written else code_of(value)
    if value in (own_math, math, *_package()):
        return value.__name__
    if isinstance(value, Tensor):
        fix = f"wanted it as an operand, such as `epilogue.per_column({name})`"
    else:
        fix = "wanted a number, a tuple of them, or a plain function, by a name of its own"
    raise TypeError(f"{written.__name__} refers to {name}, {words.kind(value)}; {fix}")


@functools.cache
def _globals_of(code: types.CodeType) -> tuple[str, ...]:
    """Names that a function, and what is defined in it, looks up in its module."""
    found = {each.argval for each in dis.get_instructions(code) if each.opname in _LOADS}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= set(_globals_of(constant))
    return tuple(sorted(found))


_LOADS = ("LOAD_GLOBAL", "LOAD_NAME")


def _package() -> tuple[types.ModuleType, ...]:
    """Modules of the package, which functions may name."""
    return tuple(sys.modules[name] for name in ("cute_gemm", "cute_gemm.epilogue") if name in sys.modules)
