"""Ways to compute something, each with a judge of its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Results = tuple[Tensor, ...]
"""Of a quantiser: elements and scales, once or twice."""


@dataclass
class Call:
    """One way to compute something. Calling it keeps the result, to be judged as the last call left it.

    Args:
        peer: whose it is; ours is called as the package.
        run: computes the result on the current stream.
        judge: the error of the worst tile of a result; raises AssertionError if it is wrong.
        scale_layout, config: as in a record.
        stages: what is timed of it by itself, each on what the stage before has left.
    """

    peer: str
    run: Callable[[], Tensor | Results]
    judge: Callable[[Any], float]
    scale_layout: str | None = None
    config: str | None = None
    stages: Mapping[str, Callable[[], object]] = field(default_factory=dict)
    result: Tensor | Results | None = field(default=None, init=False)

    def __call__(self) -> None:
        self.result = self.run()

    def error(self) -> float:
        """The worst tile's error of the last result.

        Raises:
            AssertionError: it is wrong, or there is none.
        """
        if self.result is None:
            raise AssertionError(f"{self.peer} was not called")
        return self.judge(self.result)

    def poison(self) -> None:
        """Makes NaN of the last result, so that it does not pass for that of another call."""
        results = (self.result,) if isinstance(self.result, Tensor) else self.result or ()
        for each in results:
            each.fill_(torch.nan)


def judge_within(error: Callable[[Any], float], limit: float) -> Callable[[Any], float]:
    """A judge of a peer's results: the worst tile's ``error`` must be at most ``limit``."""

    def judge(out: Any) -> float:
        found = error(out)
        if found > limit:
            raise AssertionError(f"the worst tile's error is {found:.3e}, limit {limit:.0e}")
        return found

    return judge
