"""How much of what takes long to test is tested."""

from collections.abc import Sequence
from typing import TypeVar

import hypothesis

T = TypeVar("T")


def is_exhaustive() -> bool:
    return hypothesis.settings.get_current_profile_name() == "exhaustive"


def examples(count: int) -> hypothesis.settings:
    """``count`` of them with `--exhaustive`, else a sixth."""
    return hypothesis.settings(max_examples=count if is_exhaustive() else count // 6, deadline=None)


def one_of_each(pairs: Sequence[tuple[T, T]]) -> list[T]:
    """Both of each pair with `--exhaustive`, else the first and the second in turn."""
    if is_exhaustive():
        return [each for pair in pairs for each in pair]
    return [pair[place % 2] for place, pair in enumerate(pairs)]


def some_of(every: Sequence[T], step: int = 2) -> Sequence[T]:
    """All with `--exhaustive`, else each ``step``-th."""
    return every if is_exhaustive() else every[::step]
