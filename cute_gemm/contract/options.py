"""What is said beside tensors: each rule beside what is said where it is broken."""

from __future__ import annotations

from . import words


def require_flag(name: str, value: object) -> None:
    """It is True or False: of a tensor the host would have to wait for that.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {words.kind(value)}; wanted a bool")
