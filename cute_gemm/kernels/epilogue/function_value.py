"""Plain functions applied to sums, element by element: what :mod:`cute_gemm.epilogue` becomes in a kernel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cutlass.cute as cute
from cutlass import Float32

from ...plan.quantizer import INTERLEAVE
from ..sm90.mma import columns_of
from .operand_readers import READERS
from .store import columns
from .value import Place, Shape

Stage = tuple[Callable[..., Any], tuple[str, ...]]

_MOST_COLUMNS = 128
"""Of a tile for which numbers are held: main loops of wider ones have no registers left."""

_MOST_AT_ONCE = 32
"""Registers for which numbers are loaded at once: with more of them, wide tiles spill."""


@dataclass(frozen=True)
class FunctionValue:
    """A value that applies functions, one after the other, each to what the one before made and to operands.

    Args:
        stages: functions, and for each the kinds of its operands, by the names of
            :mod:`cute_gemm.epilogue.operands`.
    """

    stages: tuple[Stage, ...]

    unit: ClassVar[int] = 8
    width: ClassVar[int] = 32

    @property
    def part(self) -> int:
        """As :attr:`unit`."""
        return self.unit

    @property
    def tensors(self) -> int:
        """As many as all stages have operands; a number counts as one."""
        return sum(len(kinds) for _, kinds in self.stages)

    def out_columns(self, n):
        """As many."""
        return n

    def operands(self, *tensors) -> tuple:
        """As they came."""
        return tensors

    def prefetch(self, operands: tuple, place: Place, shape: Shape) -> tuple:
        """Where the tile begins, and what readers hold for it."""
        rows, columns = shape
        own, shape = place.made_by(self), (rows, self.out_columns(columns))
        held: list[list] = [[] for _ in operands]
        if columns <= _MOST_COLUMNS:
            held = [
                READERS[kind].hold(each, own, shape) for kind, each in zip(self.kinds, operands, strict=True)
            ]
        return place.first_row, place.first_column, held

    @property
    def kinds(self) -> list[str]:
        """Of all operands."""
        return [kind for _, kinds in self.stages for kind in kinds]

    def given(self, sums: cute.Tensor, element: int) -> Any:
        """What of the sums a register of the result is made of."""
        return sums[element]

    def __call__(self, sums: cute.Tensor, place: Place, operands: tuple, fetched) -> cute.Tensor:
        """What becomes of the sums, in their place."""
        first_row, first_column, held = fetched
        moved = place.first_row - first_row, self.out_columns(place.first_column - first_column)
        made, place = columns(sums, 0, self.out_columns(columns_of(sums))), place.made_by(self)
        readers = [
            READERS[kind](each, place, own, moved)
            for kind, each, own in zip(self.kinds, operands, held, strict=True)
        ]
        for element in range(0, cute.size(made), 2):
            if any(each.loads for each in readers) and element and element % _MOST_AT_ONCE == 0:
                cute.arch.sync_warp()
            pairs = [reader.pair(element) for reader in readers]
            for j in range(2):
                given = self.given(sums, element + j)
                made[element + j] = self.applied(given, [pair[j] for pair in pairs])
        return made

    def applied(self, x: Any, values: list) -> Float32:
        """What becomes of one sum, given a number for each operand."""
        return chained(self.stages, x, values)


@dataclass(frozen=True)
class GatedValue(FunctionValue):
    """The same, where the first function makes a column of two: a gate's, and what it opens for.

    Of either, as many columns as a turn has alternate. Of every eight neighbours a thread has two, so it has
    both columns; and of results it has what a thread of a narrower fragment would have.

    Args:
        turn: a multiple of 8.
    """

    turn: int = INTERLEAVE

    @property
    def unit(self) -> int:
        """A turn of either."""
        return 2 * self.turn

    def out_columns(self, n):
        """Half as many."""
        return n // 2

    def given(self, sums: cute.Tensor, element: int) -> tuple[Float32, Float32]:
        """The gate's column, and the other."""
        size = self.turn // 2  # registers
        number, own = divmod(element, size)
        gate = 2 * size * number + own
        return sums[gate], sums[gate + size]

    def applied(self, x: tuple[Float32, Float32], values: list) -> Float32:
        """What becomes of both."""
        (function, kinds), *others = self.stages
        made = Float32(function(*x, *values[: len(kinds)]))
        return chained(others, made, values[len(kinds) :])


def chained(stages: Sequence[Stage], x: Float32, values: list) -> Float32:
    """What functions make of a number, given one for each of their operands."""
    for function, kinds in stages:
        own, values = values[: len(kinds)], values[len(kinds) :]
        x = Float32(function(x, *own))
    return x
