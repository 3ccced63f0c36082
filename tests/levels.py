"""Which cases of a test run by default, and which with `--thorough` only (conftest.py)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def cases(every: Iterable[Any], usual: Iterable[Any]) -> list[Any]:
    """All cases, for `pytest.mark.parametrize`; those that are not ``usual`` are marked `thorough`.

    A case of several arguments is a tuple.

    Raises:
        ValueError: a usual one is not there.
    """
    every, usual = [*every], [*usual]
    if missing := [each for each in usual if each not in every]:
        raise ValueError(f"no such cases: {missing}")
    return [
        pytest.param(
            *(each if type(each) is tuple else (each,)),
            marks=() if each in usual else pytest.mark.thorough,
        )
        for each in every
    ]
