"""What holds for all calls within a scope: how they use a device, and what results may depend on."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import EllipsisType
from typing import Any, TypeVar

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Settings:
    """What is in force; see :func:`config`. ``outer`` is what will be again where ``scope`` ends."""

    num_sms: int | None = None
    batch_invariant: bool = False
    pdl: bool | None = None
    jit: bool | None = None
    outer: Settings | None = field(default=None, repr=False, compare=False)
    scope: Scope | None = field(default=None, repr=False, compare=False)
    dependent_launch: bool | None = field(init=False, repr=False, compare=False)
    """``pdl``, or None for where it pays, which it may not where multiprocessors are left to others."""

    def __post_init__(self) -> None:
        # Each call asks, and a property would be called.
        dependent = False if self.pdl is None and self.num_sms is not None else self.pdl
        object.__setattr__(self, "dependent_launch", dependent)


_current: ContextVar[Settings] = ContextVar("cute_gemm settings", default=Settings())  # noqa: B039 (frozen)

current: Callable[[], Settings] = _current.get
"""The settings in force. Every call of an operation asks."""


class _TracedCode(threading.local):
    """Scopes that the code is in which torch traces now. Dynamo cannot trace a context variable."""

    def __init__(self) -> None:
        self.scopes: tuple[Scope, ...] = ()


_traced_code = _TracedCode()


def said_in_traced_code() -> dict[str, Any]:
    """What the scopes say that traced code has entered; not those around the call of what is traced."""
    said: dict[str, Any] = {}
    for scope in _traced_code.scopes:
        said.update(scope.changes)
    return said


def config(
    *,
    num_sms: int | EllipsisType | None = ...,
    batch_invariant: bool | EllipsisType = ...,
    pdl: bool | EllipsisType | None = ...,
    jit: bool | EllipsisType | None = ...,
) -> Scope:
    """Settings for all calls within a scope.

        with cute_gemm.config(num_sms=100):
            ...

    Also a decorator of functions. Scopes nest: what an inner one does not name stays as it is outside. They
    are of the thread, or the asyncio task, that enters them: a new thread starts with the defaults, a task
    with the settings of whoever created it. A graph that is captured within a scope keeps its settings. What
    the reference does on the CPU does not depend on them. Code that `torch.compile` or `torch.export` traces
    keeps what scopes inside it say, of those around it nothing: each call asks what is in force where it is
    made (docs/torch_compile.md).

    Args:
        num_sms: the multiprocessors that a kernel uses at most, of any device: the rest is left to kernels
            that run beside it, as those that communicate. None, the default outside all scopes, is all.
        batch_invariant: whether a row of a result must have the same bits however many rows there are and
            whatever the others hold: each element is then summed up in one order of k-blocks. False outside
            all scopes.
        pdl: whether kernels are launched by programmatic dependent launch: a kernel is then set up while the
            one before it on the stream runs, and reads and writes no memory until that has ended, with all
            before it; L2 may fetch some of a dense product's B before.
            There is something to gain only where one kernel is launched right behind the other, also in a
            graph that is captured: such launches become programmatic edges. None, the default outside all
            scopes, is where it was measured to pay, and nowhere while ``num_sms`` is set: a kernel that waits
            may hold multiprocessors that are left to others. docs/contract.md says what may overlap with
            what.
        jit: whether a call may compile a kernel that is neither in this process, nor in a pack, nor on disk.
            Where it may not, it raises a RuntimeError that names the `cute-gemm warmup` command which makes
            the kernel. None, the default outside all scopes, is what the environment variable
            ``CUTE_GEMM_JIT`` says: ``never`` that it may not. In traced code it has no effect:
            docs/torch_compile.md.

    Returns:
        What to enter by ``with``, or to decorate with. It may be entered again, also by several threads.

    Raises:
        TypeError: an argument of another type; or, as a decorator, what is no function, or a function that
            runs after it was called (a coroutine function or a generator): enter the scope within it.
        ValueError: ``num_sms`` is below 1. That it is above what a device has, the first operation there
            says, by a ValueError, too.
        RuntimeError: a scope is left that is not the innermost of those in force.
    """
    changes: dict[str, Any] = {}
    if num_sms is not ...:
        if num_sms is not None and (not isinstance(num_sms, int) or isinstance(num_sms, bool)):
            raise TypeError(f"num_sms is {num_sms!r}; want an int, or None for all of a device")
        if num_sms is not None and num_sms < 1:
            raise ValueError(f"num_sms is {num_sms}; want at least 1, or None for all of a device")
        changes["num_sms"] = num_sms
    if batch_invariant is not ...:
        if not isinstance(batch_invariant, bool):
            raise TypeError(f"batch_invariant is {batch_invariant!r}; want a bool")
        changes["batch_invariant"] = batch_invariant
    if pdl is not ...:
        if pdl is not None and not isinstance(pdl, bool):
            raise TypeError(f"pdl is {pdl!r}; want a bool, or None for where it pays")
        changes["pdl"] = pdl
    if jit is not ...:
        if jit is not None and not isinstance(jit, bool):
            raise TypeError(f"jit is {jit!r}; want a bool, or None for what CUTE_GEMM_JIT says")
        changes["jit"] = jit
    return _scope(changes)


_NOT_INNERMOST = (
    "left a scope of cute_gemm.config that is not the innermost one in force here; want each left where it "
    "was entered, in the opposite order: `with cute_gemm.config(...):`"
)


class Scope:
    """What :func:`config` returns. It does not know who is in it, so it may be entered again."""

    def __init__(self, changes: dict[str, Any]) -> None:
        self.changes = changes
        # Of who entered it last: to make them takes some microseconds, and one may be entered for every call.
        self._made: Settings | None = None

    def __enter__(self) -> None:
        outer, made = current(), self._made
        if made is None or made.outer is not outer:
            made = self._made = replace(outer, **self.changes, outer=outer, scope=self)
        _current.set(made)

    def __exit__(self, *raised: object) -> None:
        now = current()
        if now.outer is None or now.scope is not self:
            raise RuntimeError(_NOT_INNERMOST)
        _current.set(now.outer)

    def __call__(self, function: _Function) -> _Function:
        if not callable(function):
            raise TypeError(f"cannot decorate {function!r}; want a function, or a `with` statement")
        if isinstance(function, (type, staticmethod)):
            raise TypeError(f"cannot decorate {function!r}; want the function within it decorated")
        later = inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction
        # What is called of an object that is no function itself.
        called = function, type(function).__call__
        if any(runs_later(each) for runs_later in later for each in called):
            name = getattr(function, "__qualname__", repr(function))
            raise TypeError(f"{name} runs after it was called: enter the scope within it")

        @functools.wraps(function)
        def scoped(*args: Any, **kwargs: Any) -> Any:
            # Dynamo enters no scope that was made outside of what it traces.
            with _scope(self.changes):
                return function(*args, **kwargs)

        return scoped  # type: ignore[return-value]


class _TracedScope(Scope):
    """A scope in code that torch traces: what it says becomes arguments of the ops inside."""

    def __enter__(self) -> None:
        if not torch.compiler.is_compiling():
            return super().__enter__()
        _traced_code.scopes = (*_traced_code.scopes, self)

    def __exit__(self, *raised: object) -> None:
        if not torch.compiler.is_compiling():
            return super().__exit__(*raised)
        if not _traced_code.scopes or _traced_code.scopes[-1] is not self:
            raise RuntimeError(_NOT_INNERMOST)
        _traced_code.scopes = _traced_code.scopes[:-1]


def _scope(changes: dict[str, Any]) -> Scope:
    return _TracedScope(changes) if torch.compiler.is_compiling() else Scope(changes)


TRACED_IN_CALLERS_ONLY = (config, _scope, _TracedScope.__enter__, _TracedScope.__exit__)
"""Functions that must be traced as part of the code that calls them, or not at all: alone, they would take
that for traced, too."""
