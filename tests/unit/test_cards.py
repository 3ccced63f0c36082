"""Choices know their card: rates go with clock and bandwidth; any number of multiprocessors makes sense."""

import itertools
import random
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from calls import every_layout
from cuda.bindings import driver

from cute_gemm.plan import candidates, cost_model
from cute_gemm.plan.card import CARDS, H100, Card
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.factors import CURVES, FLAT_FAMILY, NO_FACTORS, Curve, Factors, family_name, tile_name
from cute_gemm.plan.layouts import DENSE, LAYOUTS, MASKED, Layout
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.plan.rates import Rates, measured_rates, rates_of
from cute_gemm.runtime import hardware

H20, PCIE = CARDS["NVIDIA H20"], CARDS["NVIDIA H100 PCIe"]
MOST_SMS = 144
"""Of the whole chip; no card has them all."""

SHAPES = [
    *itertools.product((1, 16, 64, 128, 512, 4096), (576, 4096, 24576), (512, 7168)),
    *itertools.product((300, 1111), (2112, 7168), (1536,)),
]


def problem(layout: Layout, shape: tuple[int, int, int], **changes: object) -> GemmProblem:
    """A shape, or as many rows in each of 8 groups."""
    m, n, k = shape
    groups = 8 if layout.is_grouped else 1
    return replace(GemmProblem(m * groups, n, k, layout=layout, groups=groups), **changes)  # type: ignore[arg-type]


# Multiprocessors


@every_layout
def test_choices_suit_every_number_of_multiprocessors(layout: Layout) -> None:
    """As cute_gemm.config sets them, or as a card has them."""
    for num_sms, shape in itertools.product(range(1, MOST_SMS + 1), SHAPES[::5]):
        for card in (replace(H100, sms=num_sms), replace(H100, sms=MOST_SMS)):
            some = problem(layout, shape, num_sms=num_sms, card=card)
            best = cost_model.best(some)
            assert best.cluster_size <= num_sms
            assert candidates.is_candidate(some, best)


@every_layout
def test_more_multiprocessors_are_never_predicted_to_take_longer(layout: Layout) -> None:
    """Of any one kernel; and so of what is chosen."""
    card = replace(H100, sms=MOST_SMS)
    for shape in SHAPES[::3]:
        least = float("inf")
        for num_sms in range(1, MOST_SMS + 1):
            us = cost_model.rank(problem(layout, shape, num_sms=num_sms, card=card))[0].cost_us
            # What more CTAs ask of L2 at once may be more than it gives.
            assert us <= 1.05 * least, (shape, num_sms)
            least = min(us, least)


@every_layout
def test_few_multiprocessors_take_as_much_longer_as_there_is_to_compute(layout: Layout) -> None:
    """A choice for all of a card, run on a part of it, is what shows that the number was not asked for."""
    many = problem(layout, (4096, 7168, 4096))
    whole = cost_model.rank(many)[0].cost_us
    for num_sms in (66, 33, 12):
        part = cost_model.rank(replace(many, num_sms=num_sms))[0].cost_us
        # All of them together wait for memory now and then.
        assert 0.7 < part / whole / (many.num_sms / num_sms) < 1.1


# Cards


def reference() -> Card:
    """The card that rates were measured on, as its driver describes it."""
    return measured_rates("NVIDIA H200", "dense")[0]


@every_layout
def test_a_card_that_was_measured_has_its_rates(layout: Layout) -> None:
    card, rates = measured_rates("NVIDIA H200", layout.name)
    assert rates_of(card, layout) is rates
    for like in (replace(card, l2_bytes=1), replace(card, name="another")):
        assert rates_of(like, layout) == rates
    assert rates_of(H100, layout).dram_bytes_per_us < rates.dram_bytes_per_us / 1.4


def test_rates_go_with_the_clock_and_with_bandwidth() -> None:
    card = reference()
    base = rates_of(card, DENSE)
    slow = rates_of(replace(card, sm_mhz=card.sm_mhz // 2), DENSE)
    assert slow.dram_bytes_per_us == base.dram_bytes_per_us
    times = "launch_us", "cluster_us", "tile_us", "sum_us", "k_block_us", "same_line_us"
    for name in times:
        for one, other in zip(numbers(slow, name), numbers(base, name), strict=True):
            assert one == pytest.approx(2 * other)
    for name in ("sm_bytes_per_us", "l2_bytes_per_us"):
        for one, other in zip(numbers(slow, name), numbers(base, name), strict=True):
            assert one == pytest.approx(other / 2)
    wide = rates_of(replace(card, dram_bytes_per_us=2 * card.dram_bytes_per_us), DENSE)
    assert wide.dram_bytes_per_us == pytest.approx(2 * base.dram_bytes_per_us)
    assert replace(wide, dram_bytes_per_us=base.dram_bytes_per_us) == base
    same = {"straddling", "reread", "factors", "dram_bytes_per_us"}
    assert {*times, "sm_bytes_per_us", "l2_bytes_per_us", *same} == {field.name for field in fields(Rates)}


@every_layout
def test_what_was_measured_has_a_factor_for_every_tile_that_can_be_chosen(layout: Layout) -> None:
    """And curves for every family, where enough was measured; none is far from 1."""
    _, rates = measured_rates("NVIDIA H200", layout.name)
    factors = rates.factors
    configs = candidates.all_configs(layout=layout)
    assert {tile_name(config) for config in configs} <= set(factors.tiles)
    assert all(0.5 < factor < 2 for pair in factors.tiles.values() for factor in pair)
    families = {family_name(config) for config in configs}
    assert set(factors.knots) == (families if layout.name in ("dense", "offsets") else set())
    for curves in factors.knots.values():
        assert tuple(curves) == CURVES
        assert all(0.5 < factor < 2 for knots in curves.values() for _, factor in knots)


def test_a_curve_is_straight_between_its_knots_over_logarithms() -> None:
    curve = Curve([(2, 1.0), (8, 4.0), (32, 2.0)])
    assert [curve.at(x) for x in (0, 1, 2, 4, 8, 16, 32, 33, 1000)] == pytest.approx(
        [1, 1, 1, 2, 4, 8**0.5, 2, 2, 2]
    )
    assert curve.least == 1.0
    assert Curve().at(0) == Curve().at(99) == 1.0


def test_a_tile_that_was_not_measured_has_no_factor() -> None:
    config = KernelConfig(64, 144, 6, cluster_m=2)
    assert tile_name(config) == "64x144 c2x1 k1 t1"
    assert NO_FACTORS.of_tile(config) == (1.0, 1.0)
    assert NO_FACTORS.family(config) is FLAT_FAMILY
    factors = Factors({"64x144 c2x1 k1 t1": (1.1, 0.9)}, {"64 along M": {"waves": [(1, 1.2)]}})
    assert factors.of_tile(config) == (1.1, 0.9)
    assert (factors.family(config).waves.at(3), factors.family(config).busy.at(3)) == (1.2, 1.0)
    assert factors.family(replace(config, cluster_m=1)) is FLAT_FAMILY


def test_a_prediction_is_multiplied_by_all_its_factors() -> None:
    card = reference()
    problem = GemmProblem(100, 640, 1024, card=card)
    config = next(c for c in candidates.all_configs() if tile_name(c) == "64x64 c1x1 k1 t2")
    bare = replace(rates_of(card, DENSE), factors=NO_FACTORS)
    (plain,) = cost_model.predict_all(problem, [config], bare)
    # 2 x 10 tiles: 9 64ths of the SMs, eight k-blocks, one wave.
    curves = {
        "row_tiles": [(2, 1.1), (3, 9.0)],
        "column_tiles": [(10, 1.2), (11, 9.0)],
        "k_blocks": [(8, 1.3), (9, 9.0)],
        "busy": [(9, 1.4), (10, 9.0)],
        "waves": [(1, 1.5), (2, 9.0)],
    }
    curved = replace(bare, factors=Factors({}, {"64 alone": curves}))
    (found,) = cost_model.predict_all(problem, [config], curved)
    assert found.factor == pytest.approx(1.1 * 1.2 * 1.3 * 1.4 * 1.5)
    assert found.cost_us == pytest.approx(plain.cost_us * found.factor)
    slow = replace(bare, factors=Factors({"64x64 c1x1 k1 t2": (2.0, 3.0)}, {}))
    (of_tile,) = cost_model.predict_all(problem, [config], slow)
    assert plain.tiles_us < of_tile.tiles_us < 3 * plain.tiles_us


@every_layout
def test_choices_are_the_first_of_all_that_are_ranked(layout: Layout) -> None:
    """Rivals that are passed over could not be faster."""
    draw = random.Random(2)
    for n, k in ((4096, 7168), (24576, 1536), (576, 7168), (7168, 2048)):
        for _ in range(40):
            m = round(2 ** draw.uniform(0, 14))
            some = problem(layout, (m, n, k), num_sms=draw.choice([132, 132, 78, 20]))
            ranked = cost_model.rank(some)
            assert cost_model.predict(some, cost_model.best(some)).cost_us == ranked[0].cost_us


def test_dense_problems_of_as_many_fragments_share_a_choice() -> None:
    rows = {1: 8, 8: 8, 9: 16, 64: 64, 65: 128, 128: 128, 129: 192}
    assert {m: cost_model.rows_alike(DENSE, m) for m in rows} == rows
    assert cost_model.rows_alike(MASKED, 65) == 65
    # What is a candidate for one of them is for all.
    for n, k in ((4096, 7168), (576, 512)):
        for m in range(1, 1200):
            last = cost_model.rows_alike(DENSE, m)
            one, other = GemmProblem(m, n, k), GemmProblem(last, n, k)
            for config in candidates.all_configs():
                assert candidates.is_candidate(one, config) == candidates.is_candidate(other, config)


def numbers(rates: Rates, name: str) -> list[float]:
    """Those of a field, flat."""

    def flat(value: object) -> list[float]:
        if isinstance(value, float):
            return [value]
        values = value.values() if isinstance(value, dict) else value
        return [number for each in values for number in flat(each)]  # type: ignore[attr-defined]

    return flat(getattr(rates, name))


def test_slow_tensor_cores_are_the_limit_where_they_must_be() -> None:
    """An H20 multiplies at a quarter of an H100's speed: from some hundred rows on nothing else counts."""
    for m, n, k in ((4096, 4096, 7168), (512, 7168, 4096), (2048, 24576, 1536)):
        us = cost_model.rank(GemmProblem(m, n, k, num_sms=H20.sms, card=H20))[0].cost_us
        limit_us = 2 * m * n * k / 296e6
        # Factors are of another card, and not made for this.
        assert 0.85 * limit_us < us < 1.35 * limit_us
    # Of one row 64 are multiplied, which takes longer there than reading B does.
    row = cost_model.rank(GemmProblem(1, 24576, 7168, num_sms=H20.sms, card=H20))[0]
    assert row.dram_us < 2 * 64 * 24576 * 7168 / 296e6 < row.cost_us


def test_what_is_best_differs_from_card_to_card() -> None:
    choices = {
        card.name: [
            cost_model.best(GemmProblem(*shape, num_sms=card.sms, card=card)).name for shape in SHAPES
        ]
        for card in (H100, H20, PCIE)
    }
    assert choices[H100.name] != choices[H20.name] != choices[PCIE.name] != choices[H100.name]


def test_bands_are_lower_where_l2_is_smaller() -> None:
    """Of 4096 rows of A, a band of tiles of 256 rows has 4096, a lower one half of them."""
    config = next(
        config for config in candidates.all_configs() if config.block_m == 256 and config.cluster_m == 1
    )

    def height(l2_bytes: int) -> int:
        some = GemmProblem(4096, 4096, 6144, card=replace(H100, l2_bytes=l2_bytes))
        return candidates.as_run(some, config, False).raster_width

    assert height(H100.l2_bytes) == height(48 << 20) == 8
    assert height(60 << 20) == 16


@pytest.mark.parametrize(
    ("cluster", "card", "at_once"),
    [((1, 1), H100, 132), ((2, 1), H100, 66), ((1, 4), H100, 28), ((1, 4), PCIE, 24), ((2, 1), H20, 39)],
)
def test_whole_clusters_run_at_once(cluster: tuple[int, int], card: Card, at_once: int) -> None:
    config = next(
        config
        for config in candidates.all_configs()
        if (config.block_m, config.block_n, config.splits) == (64, 64, 1)
        and (config.cluster_m, config.cluster_n) == cluster
    )

    def waves(clusters: int, num_sms: int) -> int:
        n = clusters * 64 * cluster[1]
        some = GemmProblem(64 * cluster[0], n, 7168, num_sms=num_sms, card=card)
        return cost_model.predict(some, config).waves

    assert [waves(at_once * i, card.sms) for i in (1, 2, 3)] == [1, 2, 3]
    assert [waves(at_once * i + 1, card.sms) for i in (1, 2, 3)] == [2, 3, 4]
    # Of fewer multiprocessors, those that do not make a whole cluster are of no use.
    assert waves(5, 5 * config.cluster_size) == 1
    assert waves(5, 5 * config.cluster_size - 1) == 2


# The device


class Driver:
    """In the place of CUDA's driver: what it says of device 1, by the end of an attribute's name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **says: int) -> None:
        self.name, self.multi_processor_count = "NVIDIA H20", 77
        self.says = says
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: (None, self)[index])
        monkeypatch.setattr(driver, "cuDeviceGetAttribute", self.attribute)
        hardware._card.cache_clear()

    def attribute(self, attribute: driver.CUdevice_attribute, index: int) -> tuple[driver.CUresult, int]:
        assert index == 1
        name = attribute.name.removeprefix("CU_DEVICE_ATTRIBUTE_")
        if name in self.says:
            return driver.CUresult.CUDA_SUCCESS, self.says[name]
        return driver.CUresult.CUDA_ERROR_NOT_INITIALIZED, 0


@pytest.fixture(autouse=True)
def forgotten() -> object:
    yield
    hardware._card.cache_clear()


CLOCKS = {"CLOCK_RATE": 1830000, "MEMORY_CLOCK_RATE": 2619000, "GLOBAL_MEMORY_BUS_WIDTH": 5120}


def test_a_device_is_asked_for_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    Driver(monkeypatch, **CLOCKS, L2_CACHE_SIZE=7)
    for card in (hardware.card(), hardware.card(1)):
        assert card == Card("NVIDIA H20", 77, 1830, pytest.approx(3.35232e6), 7, H20.tensor_share)


@pytest.mark.parametrize(("name", "like"), [("NVIDIA H20", H20), ("NVIDIA of tomorrow", H100)])
def test_what_a_driver_does_not_say_is_known_or_as_of_an_h100(
    name: str, like: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    Driver(monkeypatch, MEMORY_CLOCK_RATE=0).name = name
    assert hardware.card() == replace(like, name=name, sms=77)


# What a choice takes


def evaluations(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often a rival was worked out since it was last asked."""
    real, count = cost_model.Rival.tiles_us, [0]

    def counted(self: cost_model.Rival, *counts: int) -> float:
        count[0] += 1
        return real(self, *counts)

    monkeypatch.setattr(cost_model.Rival, "tiles_us", counted)

    def since() -> int:
        found, count[0] = count[0], 0
        return found

    return since


def test_a_further_m_asks_nothing_again_and_works_out_few_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(1)
    since = evaluations(monkeypatch)
    found, ranked = [], []
    for layout in LAYOUTS.values():
        for n, k in ((4096, 7168), (24576, 1536), (576, 7168)):
            first = problem(layout, (1, n, k))
            ranking = cost_model.ranking(first)
            with monkeypatch.context() as patch:
                patch.setattr(cost_model, "candidate_rows", None)
                for _ in range(60):
                    m = round(2 ** draw.uniform(0, 14)) * first.groups
                    assert cost_model.ranking(replace(first, m=m)) is ranking
                    since()
                    ranking.best(m)
                    found.append(since())
                    ranking.rank(m)
                    ranked.append(since())
    assert max(found) <= 25
    assert sum(found) < 0.4 * sum(ranked)


def test_rankings_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_model, "_MOST_RANKINGS", 5)
    for n in range(1, 20):
        cost_model.best(GemmProblem(64, 64 * n, 256))
        assert len(cost_model._rankings) <= 5
