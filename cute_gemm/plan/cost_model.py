"""How long a kernel instance is predicted to take: what is chosen where nothing was measured.

Waves of tiles, each k-block of a wave as slow as its slowest resource (tensor cores and promotion, the way
into a multiprocessor, L2, lines that many CTAs want), but in all no faster than DRAM delivers; all that times
factors that were fitted to measurements (factors.py). It is pure Python, so that a choice can be explained,
and tested on any machine.

A server meets a new M at every step, with the same N and K. So what does not depend on M is worked out once
(:class:`Ranking`, :class:`Rival`), of the rivals only those are worked out for an M that may be fastest, and
dense problems whose rows fill as many fragments share a choice.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from functools import cache

from .candidates import all_configs, candidate_rows
from .card import Card
from .config import KernelConfig
from .factors import BUSY_STEPS, Family, sharing
from .layouts import Layout
from .limits import MMA_M, ceil_div
from .problem import GemmProblem
from .rates import Rates, rates_of
from .recipe import Recipe

_MOST_RANKINGS = 1024
_MOST_CHOICES = 1024  # of a ranking
_FEW_ROWS = 8
# No survey has tiles that are quantised (docs/performance.md, 85 and 87): a factor of k-blocks of fragments
# side by side, one of all that a single warpgroup takes with them, and what CTAs that share a scale wait for
# each other, in microseconds.
_SIDE_BY_SIDE = 1.18
_SIDE_BY_SIDE_ALONE = 1.08
_MEETING_US = 0.5


@dataclass(frozen=True)
class Choice:
    """A configuration, and what it is predicted to take, in microseconds.

    Args:
        config: the configuration.
        launch_us: from the launch to the first tile, and from the last to the end.
        waves: of clusters that run at once.
        tiles_us: all waves, if memory does not hold them up.
        dram_us: what memory takes to deliver the operands and to take the result.
        factor: measured over predicted time, as it was fitted.
        least_us: by the data sheet; far from what was measured, factors may be too small.
    """

    config: KernelConfig
    launch_us: float
    waves: int
    tiles_us: float
    dram_us: float
    factor: float
    least_us: float

    @property
    def cost_us(self) -> float:
        """All of it."""
        return max(self.fitted_us, self.least_us)

    @property
    def fitted_us(self) -> float:
        """The same without a limit: what candidates are ranked by."""
        return (self.launch_us + (self.tiles_us**4 + self.dram_us**4) ** 0.25) * self.factor


def rank(problem: GemmProblem) -> list[Choice]:
    """All candidates for ``problem``, the one predicted to be fastest first."""
    return ranking(problem).rank(problem.m)


def best(problem: GemmProblem) -> KernelConfig:
    """The candidate predicted to be fastest for ``problem``, the first of those that tie.

    Raises:
        ValueError: there is none.
    """
    return ranking(problem).best(problem.m)


def predict_all(
    problem: GemmProblem, configs: Iterable[KernelConfig], rates: Rates | None = None
) -> list[Choice]:
    """What ``problem`` is predicted to take with each of ``configs``, candidates or not.

    Args:
        problem, configs: as said.
        rates: of the card; None for those that choices are made by.
    """
    rates = rates or rates_of(problem.card, problem.layout)
    of_none = Ranking(problem, rates, ())
    m = rows_alike(problem.layout, problem.m)
    rivals = [
        Rival(problem, each, _Cost.of(each, rates), resident(problem, each.cluster_size)) for each in configs
    ]
    return [of_none.predict(m, rival) for rival in rivals]


def predict(problem: GemmProblem, config: KernelConfig) -> Choice:
    """What ``problem`` is predicted to take with ``config``, whether that is a candidate or not."""
    (choice,) = predict_all(problem, (config,))
    return choice


def ranking(problem: GemmProblem) -> Ranking:
    """That of all problems that differ from ``problem`` in M alone."""
    key = problem.but_for_m
    found = _rankings.get(key)
    if found is None:
        if len(_rankings) >= _MOST_RANKINGS:
            _rankings.clear()
        what = problem.out_dtype, problem.layout, problem.recipe, problem.narrowing, problem.accumulate
        costs = _costs(*what, problem.card)
        found = _rankings[key] = Ranking(problem, rates_of(problem.card, problem.layout), costs)
    return found


@dataclass(frozen=True, slots=True)
class _Cost:
    """What of a configuration's cost depends on no problem, on one card, in microseconds."""

    k_block_4: float
    """Of a k-block that waits for neither L2 nor lines, to the fourth power."""
    l2_us: float
    """What a byte of each row and column of all CTAs takes from L2."""
    line_us: float
    tile_us: float
    least_k_block_us: float
    family: Family

    @staticmethod
    def of(config: KernelConfig, rates: Rates) -> _Cost:
        unit = max(config.block_m, 64) * config.block_n / 8192
        fixed, per_unit = rates.k_block_us[config.block_m]
        k_factor, tile_factor = rates.factors.of_tile(config)
        k_block = (fixed + per_unit * unit) * (rates.straddling if config.straddles else 1) * k_factor
        if config.n_fragments > 1:
            k_block *= _SIDE_BY_SIDE
        into_sm = (config.block_m + config.block_n) * config.block_k / rates.sm_bytes_per_us
        fixed_tile, tile_per_unit = rates.tile_us if config.splits == 1 else rates.sum_us
        meeting_us = _MEETING_US if config.scale_ctas > 1 else 0.0
        k_block_4 = k_block**4 + into_sm**4
        return _Cost(
            k_block_4,
            config.block_k / rates.l2_bytes_per_us[sharing(config)],
            min(config.block_m, 64) / 64 * rates.same_line_us,
            (fixed_tile + tile_per_unit * unit) * tile_factor + meeting_us,
            k_block_4**0.25,
            rates.factors.family(config),
        )


class Rival:
    """A configuration, and what its cost comes to for one problem but for M."""

    __slots__ = (
        "_cost",
        "block_m",
        "cluster_m",
        "cluster_n",
        "cluster_size",
        "columns",
        "config",
        "factor",
        "family",
        "k_blocks",
        "least_factor",
        "least_m",
        "least_us",
        "most_m",
        "n_clusters",
        "resident",
        "sms",
    )

    def __init__(
        self,
        problem: GemmProblem,
        config: KernelConfig,
        cost: _Cost,
        resident: int,
        rows: range = range(0),
    ) -> None:
        """``resident`` is how many of its clusters run at once, ``rows`` all M that it is a candidate for."""
        self.config = config
        self.least_m, self.most_m = rows.start, rows.stop - 1
        self.resident = resident
        self.block_m = config.block_m
        self.cluster_m, self.cluster_n = config.cluster_m, config.cluster_n
        self.cluster_size = config.cluster_size
        self.columns = config.block_n / config.cluster_m  # that a CTA loads of B
        self.n_clusters = ceil_div(problem.n, config.block_n * config.cluster_n)
        k_blocks = problem.layout.k_blocks(problem.k, problem.groups, config.block_k)
        self.k_blocks = math.ceil(k_blocks / config.splits)
        self.sms = problem.card.sms
        self.family = family = cost.family
        column_tiles = family.column_tiles.at(self.n_clusters * self.cluster_n)
        self.factor = column_tiles * family.k_blocks.at(self.k_blocks)
        if config.n_fragments > 1 and config.math_warpgroups == 1:
            self.factor *= _SIDE_BY_SIDE_ALONE
        self.least_factor = self.factor * family.least_at_any_m
        self._cost = cost
        # A wave takes longer the more CTAs ask for the same of L2.
        self.least_us = self.k_blocks * cost.least_k_block_us + cost.tile_us

    def waves(self, m_clusters: int) -> int:
        """Of a problem that is so many clusters high."""
        return -(-m_clusters * self.n_clusters // self.resident)

    def ctas(self, m_clusters: int) -> int:
        """How many of them run at once."""
        clusters, resident = m_clusters * self.n_clusters, self.resident
        return (clusters if clusters < resident else resident) * self.cluster_size

    def factor_at(self, row_tiles: int, waves: int, ctas: int) -> float:
        """The product of all factors of a problem with so many tiles along M, waves, and CTAs at once."""
        family = self.family
        busy = family.busy.at(ctas * BUSY_STEPS // self.sms)
        return self.factor * family.row_tiles.at(row_tiles) * busy * family.waves.at(waves)

    def tiles_us(self, m: int, row_tiles: int, waves: int, ctas: int) -> float:
        """All waves of its tiles, of M rows, if memory does not hold them up."""
        cost = self._cost
        loaded = (self.block_m if self.block_m < m else m) / self.cluster_n + self.columns
        sharers = ctas / (self.cluster_n * (row_tiles if row_tiles < ctas else ctas))
        late_4 = (ctas * loaded * cost.l2_us) ** 4 + (sharers * cost.line_us) ** 4
        k_block_us = (cost.k_block_4 + late_4) ** 0.25
        return waves * (self.k_blocks * k_block_us + cost.tile_us)


class Ranking:
    """What is predicted of all problems that differ in M alone."""

    def __init__(
        self, problem: GemmProblem, rates: Rates, costs: Iterable[tuple[KernelConfig, _Cost]]
    ) -> None:
        """Of those configurations that are candidates."""
        self._problem = problem
        # Without clusters, and with them.
        self._launches_us = rates.launch_us, rates.launch_us + rates.cluster_us
        self._bytes_of_a_row = problem.bytes_of_rows(1)
        # Read once, and again where groups have several rows of tiles.
        self._bytes_of_b = problem.bytes_of_b, problem.bytes_of_b * (1 + rates.reread)
        self._dram_bytes_per_us = rates.dram_bytes_per_us
        self._chosen: dict[int, KernelConfig] = {}
        # By what decides how many clusters of tiles rows make, and how they are launched.
        self._rivals: dict[tuple[int, int, bool], list[Rival]] = {}
        at_once: dict[int, int] = {}
        for config, cost in costs:
            if rows := candidate_rows(problem, config):
                size = config.cluster_size
                if size not in at_once:
                    at_once[size] = resident(problem, size)
                alike = self._rivals.setdefault((config.block_m, config.cluster_m, size > 1), [])
                alike.append(Rival(problem, config, cost, at_once[size], rows))

    def rank(self, m: int) -> list[Choice]:
        """All candidates for M rows, the one predicted to be fastest first."""
        m = rows_alike(self._problem.layout, m)
        every = (rival for alike in self._rivals.values() for rival in alike)
        choices = [self.predict(m, rival) for rival in every if rival.least_m <= m <= rival.most_m]
        return sorted(choices, key=lambda choice: choice.fitted_us)

    def best(self, m: int) -> KernelConfig:
        """The first of :meth:`rank`, without working out all of it.

        Raises:
            ValueError: there is no candidate.
        """
        m = rows_alike(self._problem.layout, m)
        found = self._chosen.get(m)
        if found is None:
            if len(self._chosen) >= _MOST_CHOICES:
                self._chosen.clear()
            found = self._chosen[m] = self._fastest(m).config
        return found

    def _fastest(self, m: int) -> Rival:
        found: Rival | None = None
        groups, drams_us = self._groups(m), self._drams_us(m)
        least_us, blocks, block_m = math.inf, 0, 0
        for (height, cluster_m, is_cluster), rivals in self._rivals.items():
            if height != block_m:
                blocks, block_m = self._row_blocks(m, height), height
            m_clusters = ceil_div(blocks, cluster_m)
            launch_us, dram_us = self._launches_us[is_cluster], drams_us[m_clusters > groups]
            dram_4, row_tiles = dram_us**4, m_clusters * cluster_m
            for rival in rivals:
                if m > rival.most_m or m < rival.least_m:
                    continue
                # As `rival.waves`: few rivals get any further, so a call would be much of what they take.
                waves = -(-m_clusters * rival.n_clusters // rival.resident)
                # Tiles and memory together take no less than either.
                least_tiles_us = waves * rival.least_us
                at_least_us = launch_us + (least_tiles_us if least_tiles_us > dram_us else dram_us)
                if at_least_us * rival.least_factor >= least_us:
                    continue
                ctas = rival.ctas(m_clusters)
                factor = rival.factor_at(row_tiles, waves, ctas)
                if at_least_us * factor >= least_us:
                    continue
                tiles_us = rival.tiles_us(m, row_tiles, waves, ctas)
                us = (launch_us + (tiles_us**4 + dram_4) ** 0.25) * factor
                if us < least_us:
                    found, least_us = rival, us
        if found is None:
            raise ValueError(f"no kernel is a candidate for {replace(self._problem, m=m)}")
        return found

    def predict(self, m: int, rival: Rival) -> Choice:
        """What M rows are predicted to take with a rival."""
        m_clusters = ceil_div(self._row_blocks(m, rival.block_m), rival.cluster_m)
        row_tiles, waves, ctas = m_clusters * rival.cluster_m, rival.waves(m_clusters), rival.ctas(m_clusters)
        return Choice(
            rival.config,
            self._launches_us[rival.cluster_size > 1],
            waves,
            rival.tiles_us(m, row_tiles, waves, ctas),
            self._drams_us(m)[m_clusters > self._groups(m)],
            rival.factor_at(row_tiles, waves, ctas),
            self._least_us(m),
        )

    def _row_blocks(self, m: int, height: int) -> int:
        return self._problem.layout.row_blocks(m, self._problem.groups, height)

    def _groups(self, m: int) -> float:
        """Those that are expected to have rows."""
        return self._problem.layout.groups_in_use(m, self._problem.groups)

    def _least_us(self, m: int) -> float:
        """By the data sheet; which groups have rows, and so whether all of B is read, is not known."""
        if self._problem.layout.is_grouped:
            return 0.0
        return (m * self._bytes_of_a_row + self._bytes_of_b[0]) / self._problem.card.dram_bytes_per_us

    def _drams_us(self, m: int) -> tuple[float, float]:
        """What it takes to read the operands, B once or again, and to write the result."""
        rows, share = m * self._bytes_of_a_row, self._groups(m) / self._problem.groups
        once, again = (rows + share * of_b for of_b in self._bytes_of_b)
        return once / self._dram_bytes_per_us, again / self._dram_bytes_per_us


@cache
def _costs(
    out_dtype: str, layout: Layout, recipe: Recipe, narrowing: int, accumulates: bool, card: Card
) -> tuple[tuple[KernelConfig, _Cost], ...]:
    """Of all configurations, tall tiles first.

    Where there are many rows, one of them is soon found that takes less than most low ones can.
    """
    rates = rates_of(card, layout)
    configs = all_configs(out_dtype, layout, recipe, narrowing, accumulates)
    return tuple((config, _Cost.of(config, rates)) for config in reversed(configs))


_rankings: dict[Hashable, Ranking] = {}


def rows_alike(layout: Layout, m: int) -> int:
    """The most rows of which as much is predicted as of M: those that fill as many 64-row fragments.

    Below 64 eighths of one count. Groups have fragments of their own, so there it is M.
    """
    if layout.is_grouped:
        return m
    unit = MMA_M if m > MMA_M else _FEW_ROWS
    return ceil_div(m, unit) * unit


def resident(problem: GemmProblem, cluster_size: int) -> int:
    """How many clusters run at once. One is launched even where there is no room for it."""
    return max(1, problem.card.clusters_at_once(cluster_size, problem.num_sms))
