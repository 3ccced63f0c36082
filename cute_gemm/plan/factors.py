"""Measured over predicted time: factors by tile, and by where a problem lies.

The form of the cost model knows neither what becomes of lines that many CTAs want at once, nor which DRAM
pages are open, nor what the compiler made of a tile. So what it predicts is corrected by what was measured at
random problems: by one factor for the k-blocks of each tile and one for its prologue and store, and for each
family of tiles by a curve over each of five counts. Curves are few and smooth, as a choice must be good where
nothing was measured (docs/performance.md, 78).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import pairwise
from typing import Any

from .config import KernelConfig

BUSY_STEPS = 64
"""What the share of a card's SMs that have a CTA is counted in."""


def tile_name(config: KernelConfig) -> str:
    """What tells the tiles of candidates apart, such as ``64x96 c1x2 k1 t2``."""
    cluster = f"c{config.cluster_m}x{config.cluster_n}"
    partials = f"t{config.partial_accumulators}"
    return f"{config.block_m}x{config.block_n} {cluster} k{config.splits} {partials}"


def sharing(config: KernelConfig) -> str:
    """How the CTAs of a cluster share operands."""
    if config.cluster_m > 1:
        return "along M"
    return "along N" if config.cluster_n > 1 else "alone"


def family_name(config: KernelConfig) -> str:
    """Which curves are a configuration's, such as ``64 along N``, ``128 alone``, ``64 k2`` or ``64 k3+``."""
    if config.splits > 1:
        return f"{config.block_m} k{'2' if config.splits == 2 else '3+'}"
    return f"{config.block_m} {sharing(config)}"


class Curve:
    """Factors at whole numbers, between those at some of them: straight over the logarithms of both.

    Beyond the first and the last it is what it is there.
    """

    __slots__ = ("_factors", "_last", "least")

    def __init__(self, knots: Sequence[Sequence[float]] = ((1, 1.0),)) -> None:
        """``knots`` are pairs of a number and its factor, both positive, numbers ascending."""
        first, last = int(knots[0][0]), int(knots[-1][0])
        factors = [knots[0][1]] * (first + 1)
        for (x, low), (end, high) in pairwise(knots):
            for at in range(int(x) + 1, int(end) + 1):
                share = math.log(at / x) / math.log(end / x)
                factors.append(math.exp(math.log(low) * (1 - share) + math.log(high) * share))
        self._factors, self._last = tuple(factors), last
        self.least = min(factors)

    def at(self, number: int) -> float:
        """The factor at a number."""
        # Choices come here most of all; `min` would double what it takes.
        return self._factors[number if number < self._last else self._last]


@dataclass(frozen=True, eq=False)
class Family:
    """The curves of alike configurations.

    Over tiles along M and along N, k-blocks of a CTA, busy SMs in steps, and waves of clusters.
    """

    row_tiles: Curve = field(default_factory=Curve)
    column_tiles: Curve = field(default_factory=Curve)
    k_blocks: Curve = field(default_factory=Curve)
    busy: Curve = field(default_factory=Curve)
    waves: Curve = field(default_factory=Curve)

    @cached_property
    def least_at_any_m(self) -> float:
        """The least product of the factors that depend on M."""
        return self.row_tiles.least * self.busy.least * self.waves.least


CURVES = tuple(each.name for each in fields(Family))
"""Their names."""

FLAT_FAMILY = Family()
"""Where nothing was measured."""


@dataclass(frozen=True)
class Factors:
    """All of a card's, for one kind of layouts.

    Args:
        tiles: by :func:`tile_name`: of the time of a k-block, and of a prologue and store.
        knots: by :func:`family_name`, and by the names of :data:`CURVES`.
    """

    tiles: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    knots: Mapping[str, Mapping[str, Sequence[Sequence[float]]]] = field(default_factory=dict)

    @cached_property
    def _families(self) -> dict[str, Family]:
        return {
            name: Family(**{of: Curve(each) for of, each in curves.items()})
            for name, curves in self.knots.items()
        }

    def of_tile(self, config: KernelConfig) -> tuple[float, float]:
        """Of a tile's k-blocks, and of its prologue and store; 1 where nothing was measured."""
        return self.tiles.get(tile_name(config), (1.0, 1.0))

    def family(self, config: KernelConfig) -> Family:
        """A configuration's curves."""
        return self._families.get(family_name(config), FLAT_FAMILY)

    @staticmethod
    def of_json(value: Mapping[str, Any]) -> Factors:
        """What a file of rates has: ``tiles`` and ``families``."""
        return Factors({name: (k, tile) for name, (k, tile) in value["tiles"].items()}, value["families"])


NO_FACTORS = Factors()
"""Of a card where nothing was measured beside its rates."""
