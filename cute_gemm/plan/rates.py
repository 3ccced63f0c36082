"""How fast the parts of a card are: as measured on it, or scaled from a card that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from .card import H100, Card


@dataclass(frozen=True, slots=True)
class Rates:
    """Constants of :mod:`cute_gemm.plan.cost_model` on one card.

    They are fitted to times of whole kernels. They are what makes choices good, not what a part of the chip
    does: DRAM may be given more than it has, as times add up.

    Args:
        launch_us: from a launch to the first tile, and from the last to the end.
        cluster_us: a launch of clusters, over one without.
        tile_us: prologue and store of a tile: fixed, and per 64 x 128 elements.
        sum_us: the same where partial sums are handed over and added up.
        k_block_us: the same of a k-block that nothing holds up, by the height of a tile. Of 8 rows, 64 are
            multiplied.
        straddling: factor of that for selecting among two scales of B.
        sm_bytes_per_us: into one multiprocessor.
        l2_bytes_per_us: out of L2 to all multiprocessors, by how the CTAs of a cluster share operands.
            Clusters are placed GPC by GPC (docs/performance.md, 40).
        same_line_us: one CTA's turn at 64 lines of A that all CTAs of a row of tiles ask for at once.
        dram_bytes_per_us: out of and into memory.
        reread: how often more B is read where groups have several rows of tiles.
        filled: share of the multiprocessors that clusters of so many CTAs fill; all, of other sizes. Larger
            ones do not fill every GPC.
    """

    launch_us: float
    cluster_us: float
    tile_us: tuple[float, float]
    sum_us: tuple[float, float]
    k_block_us: Mapping[int, tuple[float, float]]
    straddling: float
    sm_bytes_per_us: float
    l2_bytes_per_us: Mapping[str, float]
    same_line_us: float
    dram_bytes_per_us: float
    reread: float
    filled: Mapping[int, float]


# Fitted to the timings in benchmarks/candidates (cold L2): 90 dense shapes on an H100, 43 grouped ones on an
# H200, of older kernels; benchmarks/cost_model.py shows how well, and what is picked at shapes that they were
# not fitted to. CTAs of two groups are taken to share B like others, and scales of A to cost the same
# whichever way they come. Of clusters of eight, 112 CTAs are sure to run at once.
_ON_H100 = Rates(
    launch_us=2.38,
    cluster_us=0.704,
    tile_us=(0.562, 0.396),
    sum_us=(0.0, 0.448),
    k_block_us={8: (0.0429, 0.202), 64: (0.0402, 0.135), 128: (0.196, 0.054), 256: (0.314, 0.0712)},
    straddling=1.13,
    sm_bytes_per_us=116e3,
    l2_bytes_per_us={"alone": 14.4e6, "along M": 14.4e6, "along N": 9.4e6},
    same_line_us=0.00345,
    dram_bytes_per_us=3.53e6,
    reread=0.88,
    filled={4: 114 / 132, 8: 112 / 132},
)

_MEASURED: dict[str, tuple[Card, Rates]] = {H100.name: (H100, _ON_H100)}

# 64 x 128 elements of a k-block of 128, at 8192 operations a clock: what tensor cores take at least.
_TENSOR_CLOCKS = 2 * 64 * 128 * 128 / 8192


@cache
def rates_of(card: Card) -> Rates:
    """The rates of a card: what was measured on one of its name, scaled where this one differs; or an H100's.

    Multiprocessors and L2 go with the clock, memory with its bandwidth. Tensor cores with a part of an H100's
    speed take as much longer for each k-block as they would take for it alone.
    """
    reference, rates = _MEASURED.get(card.name, _MEASURED[H100.name])
    if card == reference:
        return rates
    slower = reference.sm_mhz / card.sm_mhz
    late_us = _TENSOR_CLOCKS / card.sm_mhz * (1 / card.tensor_share - 1 / reference.tensor_share)
    return replace(
        rates,
        launch_us=rates.launch_us * slower,
        cluster_us=rates.cluster_us * slower,
        tile_us=_times(rates.tile_us, slower),
        sum_us=_times(rates.sum_us, slower),
        k_block_us={
            height: (fixed * slower, per_unit * slower + late_us)
            for height, (fixed, per_unit) in rates.k_block_us.items()
        },
        sm_bytes_per_us=rates.sm_bytes_per_us / slower,
        l2_bytes_per_us={how: rate / slower for how, rate in rates.l2_bytes_per_us.items()},
        same_line_us=rates.same_line_us * slower,
        dram_bytes_per_us=rates.dram_bytes_per_us * card.dram_bytes_per_us / reference.dram_bytes_per_us,
    )


def _times(pair: tuple[float, float], factor: float) -> tuple[float, float]:
    return pair[0] * factor, pair[1] * factor
