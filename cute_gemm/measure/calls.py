"""Ways to compute a product, each with a judge of its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Call:
    """One way to compute a product. Calling it keeps the result, to be judged as the last call left it.

    Args:
        peer: whose it is; ours is called as the package.
        run: computes the product on the current stream.
        judge: the error of the worst tile of a result; raises AssertionError if it is wrong.
        scale_layout, config: as in a record.
    """

    peer: str
    run: Callable[[], Tensor]
    judge: Callable[[Tensor], float]
    scale_layout: str | None = None
    config: str | None = None
    result: Tensor | None = field(default=None, init=False)

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


def judge_within(error: Callable[[Tensor], float], limit: float) -> Callable[[Tensor], float]:
    """A judge of a peer's results: the worst tile's ``error`` must be at most ``limit``."""

    def judge(out: Tensor) -> float:
        found = error(out)
        if found > limit:
            raise AssertionError(f"the worst tile's error is {found:.3e}, limit {limit:.0e}")
        return found

    return judge
