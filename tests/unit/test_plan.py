"""Which kernel is chosen: only such as can be built, for every problem, and for a reason."""

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from cute_gemm.plan import candidates, cost_model, launch_policy
from cute_gemm.plan.config import RASTER_WIDTH, KernelConfig
from cute_gemm.plan.launch_policy import LaunchFlags
from cute_gemm.plan.layouts import LAYOUTS
from cute_gemm.plan.limits import MAX_GROUPS, OUT_BYTES, SMEM_CAPACITY
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.runtime import dispatch
from cute_gemm.testing import limit_us

CONFIGS = candidates.every_config()

# As likely small as large: uniform numbers up to 2**31 would all be large.
EXTENT = st.integers(0, 31).flatmap(lambda bits: st.integers(2**bits // 2 + 1, 2**bits))
PROBLEMS = st.builds(
    GemmProblem,
    m=EXTENT,
    n=EXTENT.map(lambda n: -(-n // 8) * 8),
    k=EXTENT.map(lambda k: -(-k // 16) * 16),
    out_dtype=st.sampled_from(list(OUT_BYTES)),
    num_sms=st.sampled_from([1, 2, 3, 16, 78, 114, 132]),
)
PROBLEMS |= st.builds(
    replace, PROBLEMS, layout=st.sampled_from(LAYOUTS[1:]), groups=st.integers(1, MAX_GROUPS)
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("out_dtype", OUT_BYTES)
def test_all_configurations_are_legal_and_of_their_type(out_dtype: str, layout: str) -> None:
    configs = candidates.all_configs(out_dtype, layout)
    assert {(config.out_dtype, config.layout) for config in configs} == {(out_dtype, layout)}
    assert all(candidates.is_legal(config) for config in configs)
    # A tile of 256 rows would be of two contiguous groups.
    heights = {64, 128} if layout == "contiguous" else {64, 128, 256}
    few_rows = {8} if layout == "dense" else set()
    assert {config.block_m for config in configs} == heights | few_rows
    assert any(config.block_n & (config.block_n - 1) for config in configs)
    assert {config.layout for config in configs if config.splits > 1} <= {"dense"}
    for block_m in heights:
        clusters = {(config.cluster_m, config.cluster_n) for config in configs if config.block_m == block_m}
        assert {(1, 1), (2, 1), (1, 2)} <= clusters


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_shared_memory_is_used_up(config: KernelConfig) -> None:
    left = SMEM_CAPACITY - replace(config, tma_scales=False).smem_bytes
    assert left >= config.scales_bytes
    alone = config.layout == "dense" and config.block_m <= 64 and config.cluster_m == config.cluster_n == 1
    assert config.partial_accumulators == (2 if config.block_m <= 64 and config.layout == "dense" else 1)
    # Serial loops of one math warpgroup that have eight stages or more have whole groups of four.
    step = 4 if config.block_m == 64 and config.partial_accumulators == 1 and config.stages >= 8 else 1
    assert config.stages % step == 0
    assert left < step * config.stage_bytes or config.stages == (8 if alone else 16)


def test_scales_come_with_the_stages_where_there_is_room() -> None:
    short, long = GemmProblem(4096, 4096, 7 * 128), GemmProblem(128, 4096, 7 * 128 + 16)
    narrowed = set()
    for config in CONFIGS:
        bare = replace(config, tma_scales=False, raster_width=RASTER_WIDTH // config.cluster_m)
        if bare not in candidates.all_configs(config.out_dtype, config.layout):
            continue  # it has been narrowed
        assert candidates.as_run(long, bare, False) == bare
        # Rows of offsets begin anywhere, where TMA cannot.
        is_of_use = config.math_warpgroups == 2 and config.layout != "offsets"
        fits = replace(bare, tma_scales=True).smem_bytes <= SMEM_CAPACITY
        for problem in (short, long):
            staged = candidates.as_run(problem, bare, True)
            assert staged in CONFIGS
            if staged.epi_n != bare.epi_n:
                assert problem is long
                assert not fits
                assert (bare.epi_n, staged.epi_n) == (64, 32)
                narrowed.add(bare.block_m)
            else:
                assert staged.tma_scales == (is_of_use and fits)
            assert replace(staged, tma_scales=False, epi_n=bare.epi_n) == bare
            assert staged.smem_bytes <= SMEM_CAPACITY
    assert narrowed == {256}
    assert {config.block_m for config in CONFIGS if config.tma_scales} == {128, 256}


def test_bands_of_tall_tiles_are_lower_where_their_rows_of_a_are_many_bytes() -> None:
    def rasters(m: int, k: int, layout: str = "dense") -> dict[int, set[int]]:
        """Tiles along M, by the height of a tile."""
        problem = GemmProblem(m, 4096, k, layout=layout)
        run = [candidates.as_run(problem, choice.config, False) for choice in cost_model.rank(problem)]
        assert set(run) <= set(CONFIGS)
        return {
            block_m: {config.raster_width * config.cluster_m for config in run if config.block_m == block_m}
            for block_m in (128, 256)
        }

    assert rasters(4096, 512) == rasters(4096, 4096) == {128: {16}, 256: {16}}
    assert rasters(4096, 7168) == rasters(4096, 16384) == {128: {16}, 256: {8}}
    # What is no higher than half a band is walked alike.
    assert rasters(512, 16384)[256] == rasters(2048, 16384)[256] == {16}
    assert rasters(2049, 16384)[256] == {8}
    assert rasters(4096, 16384, "masked")[256] == {16}


LEGAL = KernelConfig(128, 128, 4)
TALL: dict[str, Any] = {"block_m": 256, "stages": 3}
ILLEGAL: dict[str, dict[str, Any]] = {
    "more shared memory than there is": {"stages": 7},
    "a ring too short to hide latency": {"stages": 2},
    "three scales of B": {"block_n": 144 + 32, "epi_n": 16},
    "a last chunk of the store that is cut": {"block_n": 112},
    "one store buffer for two chunks": {"epi_stages": 1},
    "more accumulators than registers": TALL | {"block_n": 192},
    "more accumulators with two partial_accumulators": {
        "block_n": 160,
        "epi_n": 32,
        "partial_accumulators": 2,
    },
    "two partial_accumulators for each of two m-fragments": {
        "block_m": 256,
        "block_n": 64,
        "partial_accumulators": 2,
    },
    "a tile of two groups": TALL | {"layout": "contiguous"},
    "k-blocks of a tile of groups shared out": {"splits": 2, "epi_n": 128, "layout": "masked"},
    "k-blocks of tiles that share A shared out": {"splits": 2, "epi_n": 128, "cluster_n": 2},
    "k-blocks of a tile of two m-fragments shared out": TALL | {"block_n": 64, "splits": 2},
    "scales by TMA of tiles that begin at any row": {"layout": "offsets", "tma_scales": True},
    "a CTA without columns to add up": {"block_m": 64, "block_n": 96, "epi_n": 96, "splits": 5},
}


@pytest.mark.parametrize("change", ILLEGAL)
def test_what_cannot_be_built_is_not_legal(change: str) -> None:
    assert candidates.is_legal(LEGAL)
    assert candidates.is_legal(replace(LEGAL, **TALL))
    assert not candidates.is_legal(replace(LEGAL, **ILLEGAL[change]))


@given(problem=PROBLEMS)
@settings(max_examples=300, deadline=None)
def test_the_best_is_first_of_all_that_suit(problem: GemmProblem) -> None:
    ranked = cost_model.rank(problem)
    configs = [choice.config for choice in ranked]
    assert configs
    assert cost_model.best(problem) == configs[0]
    for tma_scales in (False, True):
        assert dispatch.select(problem, tma_scales) == candidates.as_run(problem, configs[0], tma_scales)
    candidates = candidates.all_configs(problem.out_dtype, problem.layout)
    suitable = [config for config in candidates if candidates.is_suitable(problem, config)]
    assert sorted(config.name for config in configs) == sorted(config.name for config in suitable)
    costs = [choice.cost_us for choice in ranked]
    assert costs == sorted(costs)
    assert all(choice.cost_us == cost_model.cost_us(problem, choice.config) for choice in ranked)


@given(problem=PROBLEMS)
@settings(max_examples=300, deadline=None)
def test_no_prediction_beats_the_hardware(problem: GemmProblem) -> None:
    """Of an H200, whose limit no other Hopper GPU is below."""
    problem = replace(problem, num_sms=132)
    assert all(choice.cost_us > max(2, limit_us(problem)) for choice in cost_model.rank(problem))


@given(problem=PROBLEMS)
@settings(deadline=None)
def test_more_k_costs_more(problem: GemmProblem) -> None:
    for config in candidates.all_configs(problem.out_dtype, problem.layout):
        longer = replace(problem, k=problem.k + 128 * config.splits)
        assert cost_model.cost_us(problem, config) < cost_model.cost_us(longer, config)


def test_every_configuration_has_a_name_and_a_turn() -> None:
    assert len({config.name for config in CONFIGS}) == len(CONFIGS)
    assert {config.layout for config in CONFIGS} == set(LAYOUTS)
    assert {config.out_dtype for config in CONFIGS} == set(OUT_BYTES)


@given(problem=PROBLEMS)
@settings(max_examples=300, deadline=None)
def test_whatever_is_chosen_computes_everything(problem: GemmProblem) -> None:
    for choice in cost_model.rank(problem):
        config = choice.config
        assert candidates.is_able(problem, config)
        if config.splits > 1:
            tiles = -(-problem.m // config.block_m) * -(-problem.n // config.block_n)
            assert tiles * config.splits <= problem.num_sms, "CTAs that sum up one tile do not run at once"
            assert config.splits <= problem.k_blocks, "a CTA without k-blocks"
        assert config.block_m != 8 or problem.m <= 8


def test_k_is_shared_out_where_tiles_are_few_but_not_if_rows_must_not_depend_on_their_number() -> None:
    for m in (1, 8, 9, 64, 128):
        problem = GemmProblem(m, 576, 7168)
        assert cost_model.best(problem).splits > 1
        invariant = replace(problem, batch_invariant=True)
        assert {choice.config.splits for choice in cost_model.rank(invariant)} == {1}
    assert cost_model.best(GemmProblem(64, 24576, 1536)).splits == 1


def test_few_rows_get_a_low_tile_and_many_a_tall_one() -> None:
    assert {cost_model.best(GemmProblem(m, 4096, 7168)).block_m for m in (1, 8)} == {8}
    assert {cost_model.best(GemmProblem(m, 4096, 7168)).block_m for m in (9, 33, 64)} == {64}
    assert {cost_model.best(GemmProblem(4096, n, 7168)).block_m for n in (2112, 4096, 7168)} <= {128, 256}


def test_tiles_are_as_high_as_groups_are() -> None:
    def height(rows: int, layout: str) -> int:
        problem = GemmProblem(32 * rows, 4096, 7168, layout=layout, groups=32)
        assert all(choice.config.layout == layout for choice in cost_model.rank(problem))
        return cost_model.best(problem).block_m

    for layout in ("offsets", "masked"):
        assert height(20, layout) == 64
        assert height(2000, layout) > 64


def test_clusters_along_m_are_not_as_high_as_contiguous_groups() -> None:
    def heights(rows: int, layout: str) -> set[int]:
        problem = GemmProblem(8 * rows, 4096, 7168, layout=layout, groups=8)
        return {choice.config.block_m for choice in cost_model.rank(problem) if choice.config.cluster_m == 2}

    assert heights(128, "contiguous") == set()
    assert heights(256, "contiguous") == heights(128, "offsets") == {64}
    assert heights(257, "contiguous") == heights(256, "offsets") == {64, 128}


def test_an_output_smaller_than_a_wave_is_spread_over_the_multiprocessors() -> None:
    best = cost_model.best(GemmProblem(64, 4096, 7168))
    assert 4096 // best.block_n > 132 // 3


def test_a_shape_is_thought_about_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        multi_processor_count = 78

    asked: list[GemmProblem] = []

    def select(problem: GemmProblem, tma_scales: bool) -> KernelConfig:
        asked.append(problem)
        return CONFIGS[0]

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Device())
    monkeypatch.setattr(dispatch, "select", select)
    launched: list[tuple[Any, ...]] = []
    monkeypatch.setattr(dispatch, "instance", lambda config: lambda *arguments: launched.append(arguments))
    dispatch.forget()
    try:
        for m in (3, 3, 4):
            a, b, out = torch.zeros(m, 16), torch.zeros(8, 16), torch.zeros(m, 8)
            dispatch.fp8_gemm_nt(a, a, b, b, out, m, 8, 16, 0)
    finally:
        dispatch.forget()
    assert asked == [GemmProblem(3, 8, 16, "float32", 78), GemmProblem(4, 8, 16, "float32", 78)]
    assert [arguments[5] for arguments in launched] == [78, 78, 78]


@pytest.mark.parametrize(
    ("m", "n", "layout", "groups", "hints"),
    [
        (64, 4096, "dense", 1, LaunchFlags.EVICT_FIRST_B),  # a tile reads a row of B, 32 read one of A
        (512, 4096, "dense", 1, LaunchFlags.EVICT_FIRST_B),
        (513, 4096, "dense", 1, LaunchFlags(0)),
        (4096, 512, "dense", 1, LaunchFlags.EVICT_FIRST_A),
        (128, 128, "dense", 1, LaunchFlags.EVICT_FIRST_A | LaunchFlags.EVICT_FIRST_B),
        (32 * 512, 4096, "offsets", 32, LaunchFlags.EVICT_FIRST_B),  # few rows in each group
        (32 * 600, 4096, "offsets", 32, LaunchFlags(0)),
    ],
)
def test_operands_that_few_tiles_read_leave_l2_first(
    m: int, n: int, layout: str, groups: int, hints: LaunchFlags
) -> None:
    problem = GemmProblem(m, n, 1024, layout=layout, groups=groups)
    assert launch_policy.launch_flags(problem, KernelConfig(128, 128, 6, layout=layout)) == hints


@pytest.mark.parametrize(
    ("block_m", "groups", "hints"),
    [
        (64, 9, LaunchFlags.EVICT_FIRST_B),  # 396 MB of B
        (64, 10, LaunchFlags(0)),
        (128, 10, LaunchFlags.EVICT_FIRST_B),  # whose maps do not promote
    ],
)
def test_b_of_many_groups_does_not_leave_l2_first(block_m: int, groups: int, hints: LaunchFlags) -> None:
    problem = GemmProblem(20 * groups, 6144, 7168, layout="masked", groups=groups)
    assert launch_policy.launch_flags(problem, KernelConfig(block_m, 128, 8, layout="masked")) == hints


PAIR = KernelConfig(128, 128, 6, cluster_n=2)


@pytest.mark.parametrize(
    ("config", "draws"),
    [
        (PAIR, True),
        (replace(PAIR, cluster_n=1), False),
        (replace(PAIR, cluster_n=1, splits=2), False),
        (replace(PAIR, block_m=64), False),  # a warp walks ahead by itself
        (replace(PAIR, block_m=64, cluster_n=1, layout="masked"), True),
    ],
)
def test_clusters_of_many_rows_and_groups_of_few_draw_their_tiles(config: KernelConfig, draws: bool) -> None:
    problem = GemmProblem(4096, 4096, 1024, layout=config.layout)
    assert launch_policy.is_drawn(problem, config) == config.dynamic_persistence == draws


@pytest.mark.parametrize(
    ("n", "k", "num_sms", "draws"),
    [
        (66 * 256 + 8, 1024, 132, True),
        (66 * 256, 1024, 132, False),  # a tile for each cluster
        (66 * 256, 1024, 131, True),
        (66 * 256 + 8, 896, 132, False),  # too few k-blocks
        (66 * 256 + 8, 904, 132, True),
        (256, 1024, 1, False),  # one cluster runs all the same
        (264, 1024, 1, True),
    ],
)
def test_tiles_are_drawn_where_there_are_more_than_run_at_once(
    n: int, k: int, num_sms: int, draws: bool
) -> None:
    assert launch_policy.is_drawn(GemmProblem(128, n, k, num_sms=num_sms), PAIR) == draws
