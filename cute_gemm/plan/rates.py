"""How fast the parts of a card are: as measured on it, or scaled from a card that was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from .card import Card
from .factors import NO_FACTORS, Factors
from .layouts import Layout


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
        factors: measured over predicted time, where these rates were fitted.
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
    factors: Factors = NO_FACTORS


_FILES = {"NVIDIA H200": "rates_nvidia_h200.json"}
"""What `benchmarks/fit_rates.py` made of surveys, by the name of the card that they were made on."""

_REFERENCE = "NVIDIA H200"
"""Whose rates are scaled for cards that nothing was measured on. Scaled to an H100, they choose as well there
for dense problems as rates that were fitted to it (docs/performance.md, 78)."""

# 64 x 128 elements of a k-block of 128, at 8192 operations a clock: what tensor cores take at least.
_TENSOR_CLOCKS = 2 * 64 * 128 * 128 / 8192


@cache
def rates_of(card: Card, layout: Layout) -> Rates:
    """The rates of a card: those measured on one of its name, or on the reference, scaled where it differs.

    Those of each layout are fitted by themselves: the host knows more or less of the sizes of groups. Of
    groups of columns nothing was measured: a tile takes what a dense one does.

    Multiprocessors and L2 go with the clock, memory with its bandwidth. Tensor cores with a part of the
    reference's speed take as much longer for each k-block as they would take for it alone.
    """
    reference, rates = measured_rates(card.name, layout.measured_as or layout.name)
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


@cache
def measured_rates(name: str, layout: str) -> tuple[Card, Rates]:
    """The card of that name, or the reference where it or its layout was not measured; and its rates."""
    file = _read(_FILES.get(name, _FILES[_REFERENCE]))
    if layout not in file:
        file = _read(_FILES[_REFERENCE])
    return Card(**file["card"]), rates_of_json(file[layout])


@cache
def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(resources.files(__package__).joinpath(name).read_text("utf-8"))
    return found


def rates_of_json(value: Mapping[str, Any]) -> Rates:
    """Rates as a file has them: fields, where pairs are lists and heights of tiles are text; and factors."""
    fields: dict[str, Any] = {
        name: tuple(each) if isinstance(each, list) else each for name, each in value["rates"].items()
    }
    k_block_us = {int(height): (fixed, unit) for height, (fixed, unit) in fields.pop("k_block_us").items()}
    return Rates(**fields, k_block_us=k_block_us, factors=Factors.of_json(value))
