"""The cost model over all examples at once, differentiable: what `plan/cost_model.py` works out for one.

`tests/unit/test_fit_rates.py` holds both to the same predictions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cute_gemm.plan import cost_model, factors, launch_policy
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.factors import BUSY_STEPS, Curve, Factors
from cute_gemm.plan.limits import ceil_div
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.plan.rates import Rates

KNOTS = {
    "row_tiles": (1, 2, 4, 8, 16, 32, 128),
    "column_tiles": (1, 2, 4, 8, 16, 32, 64, 256),
    "k_blocks": (1, 2, 4, 8, 16, 32, 64, 144),
    "busy": (4, 16, 32, 48, 58, 64),
    "waves": (1, 2, 3, 4, 8, 32),
}
"""Where curves may bend."""

_FEW_K_BLOCKS = 8
_MOST_FALL = 1.02  # of a curve's factor from there down to one k-block, by each knot
_LEAST = 0.02  # rates of 0 are tried from here

SHARINGS = "alone", "along M", "along N"
HEIGHTS = 8, 16, 64, 128, 256

Parameters = dict[str, Tensor]
"""Logarithms of rates, by the fields of `Rates`, and of factors: ``tiles``, and one for each curve."""


def index_of(values: Sequence[str]) -> tuple[list[str], Tensor]:
    """The different values in order, and which of them each is."""
    different = sorted(set(values))
    places = {value: i for i, value in enumerate(different)}
    return different, torch.tensor([places[value] for value in values])


@dataclass(frozen=True)
class Hats:
    """Between which knots numbers lie, and how far from the lower one."""

    place: Tensor
    share: Tensor

    @staticmethod
    def of(numbers: Tensor, knots: Sequence[int]) -> Hats:
        at = torch.tensor(knots, dtype=torch.float64).log()
        x = numbers.clamp(knots[0], knots[-1]).log()
        place = (torch.searchsorted(at, x, right=True) - 1).clamp(0, len(knots) - 2)
        return Hats(place, (x - at[place]) / (at[place + 1] - at[place]))

    def value(self, tables: Tensor, which: Tensor) -> Tensor:
        """Of the ``which``-th of some tables, which have a value at each knot."""
        return tables[which, self.place] * (1 - self.share) + tables[which, self.place + 1] * self.share


class Examples:
    """Problems and what their candidates took, a row for each candidate."""

    def __init__(self, given: Sequence[tuple[GemmProblem, Mapping[KernelConfig, float]]]) -> None:
        rows = [
            (i, problem, config, us) for i, (problem, each) in enumerate(given) for config, us in each.items()
        ]
        self.count = len(given)
        self.problem = torch.tensor([i for i, *_ in rows])
        self.us = self._of(us for *_, us in rows)
        configs = [config for _, _, config, _ in rows]
        self.tiles, self.tile = index_of([factors.tile_name(config) for config in configs])
        self.families, self.family = index_of([factors.family_name(config) for config in configs])
        self.height = torch.tensor([HEIGHTS.index(config.block_m) for config in configs])
        self.sharing = torch.tensor([SHARINGS.index(factors.sharing(config)) for config in configs])
        self.has_sums = torch.tensor([config.splits > 1 for config in configs])
        self.straddles = torch.tensor([config.straddles for config in configs])
        self.is_cluster = torch.tensor([config.cluster_size > 1 for config in configs])
        self.depth = self._of(config.block_k for config in configs)
        self.size = self._of(config.cluster_size for config in configs)
        self.block_m = self._of(config.block_m for config in configs)
        self.block_n = self._of(config.block_n for config in configs)
        self.cluster_m = self._of(config.cluster_m for config in configs)
        self.cluster_n = self._of(config.cluster_n for config in configs)
        problems = [problem for _, problem, _, _ in rows]
        ms = [cost_model.rows_alike(problem.layout, problem.m) for problem in problems]
        self.m = self._of(ms)
        pairs = list(zip(problems, configs, ms, strict=True))
        clusters = [launch_policy.clusters_of(replace(problem, m=m), config) for problem, config, m in pairs]
        self.m_clusters = self._of(high for high, _ in clusters)
        n_clusters = self._of(wide for _, wide in clusters)
        resident = self._of(cost_model.resident(problem, config.cluster_size) for problem, config, _ in pairs)
        self.k_blocks = self._of(ceil_div(ceil_div(p.k, c.block_k), c.splits) for p, c, _ in pairs)
        self.at_once = torch.minimum(self.m_clusters * n_clusters, resident)
        self.waves = torch.ceil(self.m_clusters * n_clusters / resident)
        in_use = [problem.layout.groups_in_use(m, problem.groups) for problem, _, m in pairs]
        bytes_of_b = self._of(p.bytes_of_b * n / p.groups for (p, _, _), n in zip(pairs, in_use, strict=True))
        reads_again = self._of(high > n for n, (high, _) in zip(in_use, clusters, strict=True))
        self.bytes = self._of(p.bytes_of_rows(m) for p, _, m in pairs) + bytes_of_b
        self.bytes_again = bytes_of_b * reads_again
        busy = self.at_once * self.size * BUSY_STEPS // self._of(p.card.sms for p in problems)
        numbers = {
            "row_tiles": self.m_clusters * self.cluster_m,
            "column_tiles": n_clusters * self.cluster_n,
            "k_blocks": self.k_blocks,
            "busy": busy,
            "waves": self.waves,
        }
        self.hats = {name: Hats.of(numbers[name], knots) for name, knots in KNOTS.items()}

    @staticmethod
    def _of(values: Iterable[float]) -> Tensor:
        return torch.tensor([float(value) for value in values], dtype=torch.float64)

    def least(self, of_rows: Tensor) -> Tensor:
        """Of each problem's rows, the least; a value a problem."""
        none = torch.full((self.count,), math.inf, dtype=torch.float64)
        return none.scatter_reduce(0, self.problem, of_rows, "amin")

    def total(self, of_rows: Tensor) -> Tensor:
        """Of each problem's rows, the sum."""
        return torch.zeros(self.count, dtype=torch.float64).scatter_add(0, self.problem, of_rows)

    def predicted(self, parameters: Parameters) -> Tensor:
        """Microseconds of each row."""
        of = {name: each.exp() for name, each in parameters.items() if name not in KNOTS and name != "tiles"}
        tiles = parameters["tiles"][self.tile].exp()
        unit = self.block_m.clamp(min=64) * self.block_n / 8192
        k_block = (of["k_block_us"][self.height] * torch.stack([torch.ones_like(unit), unit], 1)).sum(1)
        k_block = k_block * torch.where(self.straddles, of["straddling"], 1.0) * tiles[:, 0]
        into_sm = (self.block_m + self.block_n) * self.depth / of["sm_bytes_per_us"]
        ctas = self.at_once * self.size
        loaded = torch.minimum(self.block_m, self.m) / self.cluster_n + self.block_n / self.cluster_m
        late = ctas * loaded * self.depth / of["l2_bytes_per_us"][self.sharing]
        sharers = ctas / (self.cluster_n * torch.minimum(self.m_clusters * self.cluster_m, ctas))
        line = sharers * self.block_m.clamp(max=64) / 64 * of["same_line_us"]
        k_block = (k_block**4 + into_sm**4 + late**4 + line**4) ** 0.25
        fixed, per_unit = torch.where(self.has_sums[:, None], of["sum_us"], of["tile_us"]).unbind(1)
        tiles_us = self.waves * (self.k_blocks * k_block + (fixed + per_unit * unit) * tiles[:, 1])
        dram_us = (self.bytes + self.bytes_again * of["reread"]) / of["dram_bytes_per_us"]
        launch_us = of["launch_us"] + torch.where(self.is_cluster, of["cluster_us"], 0.0)
        factor = sum(hats.value(parameters[name], self.family) for name, hats in self.hats.items())
        return (launch_us + (tiles_us**4 + dram_us**4) ** 0.25) * torch.exp(torch.as_tensor(factor))

    def parameters(self, rates: Rates) -> Parameters:
        """To start from: rates, and factors where there are some."""

        def log(*values: float) -> Tensor:
            return torch.tensor([value or _LEAST for value in values], dtype=torch.float64).log()

        found = {
            name: log(getattr(rates, name))[0]
            for name in (
                *("launch_us", "cluster_us", "straddling", "sm_bytes_per_us", "same_line_us"),
                *("dram_bytes_per_us", "reread"),
            )
        }
        found |= {"tile_us": log(*rates.tile_us), "sum_us": log(*rates.sum_us)}
        found["l2_bytes_per_us"] = log(*(rates.l2_bytes_per_us[name] for name in SHARINGS))
        heights = [rates.k_block_us[height] for height in HEIGHTS]
        found["k_block_us"] = torch.stack([log(*each) for each in heights])
        known = rates.factors
        found["tiles"] = torch.stack([log(*known.tiles.get(name, (1.0, 1.0))) for name in self.tiles])
        for curve, knots in KNOTS.items():
            rows = [known.knots.get(family, {}).get(curve, [(1, 1.0)]) for family in self.families]
            found[curve] = torch.stack([log(*(Curve(row).at(knot) for knot in knots)) for row in rows])
        return {name: each.clone().requires_grad_() for name, each in found.items()}

    def rates(self, parameters: Parameters) -> Rates:
        """What parameters stand for, to four digits."""
        of = {name: each.detach().exp().tolist() for name, each in parameters.items()}

        def short(value: float) -> float:
            return float(f"{value:.4g}")

        def held(curve: str, values: list[float]) -> list[float]:
            """Of few k-blocks, which few problems have, more take no less."""
            if curve != "k_blocks":
                return values
            few = KNOTS[curve].index(_FEW_K_BLOCKS)
            falling = itertools.accumulate(values[few::-1], lambda more, fewer: min(fewer, _MOST_FALL * more))
            return [*list(falling)[::-1], *values[few + 1 :]]

        tiles = {
            name: (short(k), short(tile)) for name, (k, tile) in zip(self.tiles, of["tiles"], strict=True)
        }
        knots = {
            family: {
                curve: [
                    (knot, short(value)) for knot, value in zip(at, held(curve, of[curve][i]), strict=True)
                ]
                for curve, at in KNOTS.items()
            }
            for i, family in enumerate(self.families)
            if any(of[curve][i] != [1.0] * len(at) for curve, at in KNOTS.items())
        }
        return Rates(
            launch_us=short(of["launch_us"]),
            cluster_us=short(of["cluster_us"]),
            tile_us=(short(of["tile_us"][0]), short(of["tile_us"][1])),
            sum_us=(short(of["sum_us"][0]), short(of["sum_us"][1])),
            k_block_us={
                height: (short(fixed), short(unit))
                for height, (fixed, unit) in zip(HEIGHTS, of["k_block_us"], strict=True)
            },
            straddling=short(of["straddling"]),
            sm_bytes_per_us=short(of["sm_bytes_per_us"]),
            l2_bytes_per_us=dict(zip(SHARINGS, map(short, of["l2_bytes_per_us"]), strict=True)),
            same_line_us=short(of["same_line_us"]),
            dram_bytes_per_us=short(of["dram_bytes_per_us"]),
            reread=short(of["reread"]),
            factors=Factors(tiles, knots),
        )
