"""A layer as steps, each of which makes of what the one before has left what the next one takes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

Steps = Mapping[str, Callable[[Any], Any]]
"""By name, in order. The first is given None."""


def run(steps: Steps) -> Any:
    """What the last step makes."""
    made = None
    for step in steps.values():
        made = step(made)
    return made


def each_alone(steps: Steps) -> dict[str, Callable[[], Any]]:
    """Each step by itself, on what those before it have made once, here."""
    found: dict[str, Callable[[], Any]] = {}
    made = None
    for name, step in steps.items():
        found[name] = functools.partial(step, made)
        made = found[name]()
    return found
