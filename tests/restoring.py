"""States of torch that are set within a scope."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def restored(get: Callable[[], Any], change: Callable[[Any], Any], value: Any) -> Iterator[None]:
    """Within it a state has a value; afterwards what it had before."""
    before = get()
    change(value)
    try:
        yield
    finally:
        change(before)
