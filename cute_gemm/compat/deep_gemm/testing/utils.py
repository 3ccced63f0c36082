"""What tests ask of the machine they run on."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import torch


def get_arch_major() -> int:
    """The major compute capability of the current CUDA device: 9 for Hopper."""
    return torch.cuda.get_device_capability()[0]


def test_filter(condition: Callable[[], bool]) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Decorates a test that is to run where a condition holds, and to say that it does not elsewhere."""

    def decorate(test: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            if condition():
                test(*args, **kwargs)
            else:
                print(f"{test.__name__}: left out, as {condition} does not hold\n")

        return run

    return decorate


# It is no test itself, where pytest sees it.
test_filter.__test__ = False  # type: ignore[attr-defined]


def ignore_env(
    name: str, condition: Callable[[], bool]
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Decorates a function that is to run without an environment variable where a condition holds."""

    def decorate(function: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            kept = os.environ.pop(name, None) if condition() else None
            try:
                function(*args, **kwargs)
            finally:
                if kept is not None:
                    os.environ[name] = kept

        return run

    return decorate
