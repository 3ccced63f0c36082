"""Values one behind the other."""

from dataclasses import dataclass
from itertools import count

import cutlass.cute as cute

from .value import Place, Shape, Value


@dataclass(frozen=True)
class ChainedValue:
    """What ``second`` makes of what ``first`` makes of sums."""

    first: Value
    second: Value

    @property
    def tensors(self) -> int:
        """Those of the first, then those of the second."""
        return self.first.tensors + self.second.tensors

    @property
    def unit(self) -> int:
        """The least that is whole units of the first, and makes whole units of the second."""
        return self._least(self.first.unit, self.second.unit)

    @property
    def part(self) -> int:
        """The same of parts."""
        return self._least(self.first.part, self.second.part)

    def _least(self, of_first: int, of_second: int) -> int:
        multiples = count(of_first, of_first)
        return next(n for n in multiples if self.first.out_columns(n) % of_second == 0)

    @property
    def width(self) -> int:
        """As of the first."""
        return self.first.width

    def out_columns(self, n):
        """Of what the first makes."""
        return self.second.out_columns(self.first.out_columns(n))

    def operands(self, *tensors) -> tuple:
        """Of either."""
        split = self.first.tensors
        return self.first.operands(*tensors[:split]), self.second.operands(*tensors[split:])

    def prefetch(self, operands: tuple, place: Place, shape: Shape) -> tuple:
        """What either has fetched."""
        of_first, of_second = operands
        rows, columns = shape
        made = rows, self.first.out_columns(columns)
        second = self.second.prefetch(of_second, place.made_by(self.first), made)
        return self.first.prefetch(of_first, place, shape), second

    def __call__(self, sums: cute.Tensor, place: Place, operands: tuple, fetched) -> cute.Tensor:
        """What the second makes."""
        made = self.first(sums, place, operands[0], fetched[0])
        return self.second(made, place.made_by(self.first), operands[1], fetched[1])
