"""Whether a call may compile a kernel. A server that is warm had rather be told than wait for seconds."""

from __future__ import annotations

import os

from .. import settings

VARIABLE = "CUTE_GEMM_JIT"
"""Environment variable: ``never`` has no call compile; empty or not set, calls compile what they need."""

_NEVER = "never"


_NOWHERE = "is compiled neither in this process, nor in a pack, nor on disk, and"


class NotCompiledError(RuntimeError):
    """A call needs a kernel that is not compiled yet, and is not to compile it; nothing was launched.

    Args:
        label: the kernel's name.
        why: what forbids it.
        remedy: what makes the kernel, in words.
        call: what needs it, in words.
    """

    def __init__(self, label: str, why: str, remedy: str, call: str = "") -> None:
        super().__init__(label, why, remedy, call)
        self.label, self.why, self.remedy, self.call = label, why, remedy, call

    def __str__(self) -> str:
        needed = f"{self.call} needs the kernel {self.label}, which" if self.call else self.label
        return f"{needed} {_NOWHERE} {self.why}; {self.remedy}"


def require_allowed(label: str, remedy: str) -> None:
    """Before a kernel is compiled for a call.

    Args:
        label: the kernel's name.
        remedy: what makes it, in words.

    Raises:
        NotCompiledError: calls are not to compile.
        ValueError: the environment variable says what is not understood.
    """
    if why := _why_not():
        raise NotCompiledError(label, why, remedy)


def require_understood() -> None:
    """Sees to it that the environment variable, if it is asked, says what is understood.

    Raises:
        ValueError: it does not; a slip would let a server compile.
    """
    said = os.environ.get(VARIABLE, "")
    if settings.current().jit is None and said not in ("", _NEVER):
        raise ValueError(
            f"{VARIABLE} is {said!r}; want {_NEVER}, or nothing, where calls compile what they need"
        )


def _why_not() -> str:
    """What forbids it; empty where nothing does. Read at every use, as other variables are."""
    said = settings.current().jit
    if said is None:
        require_understood()
        return f"{VARIABLE}={_NEVER} forbids calls to compile" if os.environ.get(VARIABLE) else ""
    return "" if said else "config(jit=False) is in force"
