"""Which kernel is chosen: only such as can be built, for every problem, and for a reason."""

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from calls import every_layout, grouped_layouts
from hypothesis import example, given, settings

from cute_gemm.plan import candidates, cost_model
from cute_gemm.plan.config import RASTER_WIDTH, KernelConfig
from cute_gemm.plan.data_sheets import data_sheet
from cute_gemm.plan.layouts import CONTIGUOUS, DENSE, LAYOUTS, MASKED, OFFSETS, Layout
from cute_gemm.plan.limits import MAX_GROUPS, OUT_BYTES, SMEM_CAPACITY
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.plan.recipe import FP8_1D2D
from cute_gemm.runtime import selection

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
    replace, PROBLEMS, layout=st.sampled_from(grouped_layouts), groups=st.integers(1, MAX_GROUPS)
)


@every_layout
@pytest.mark.parametrize("out_dtype", OUT_BYTES)
def test_all_configurations_are_legal_and_of_their_type(out_dtype: str, layout: Layout) -> None:
    configs = candidates.all_configs(out_dtype, layout)
    assert {(config.out_dtype, config.layout) for config in configs} == {(out_dtype, layout)}
    assert all(candidates.can_be_built(config) for config in configs)
    # A tile of 256 rows would be of two contiguous groups.
    heights = {64, 128} if layout is CONTIGUOUS else {64, 128, 256}
    few_rows = {DENSE: {8}, CONTIGUOUS: set()}.get(layout, {16})
    assert {config.block_m for config in configs} == heights | few_rows
    assert any(config.block_n & (config.block_n - 1) for config in configs)
    assert {config.layout for config in configs if config.splits > 1} <= {DENSE}
    for block_m in heights:
        clusters = {(config.cluster_m, config.cluster_n) for config in configs if config.block_m == block_m}
        assert {(1, 1), (2, 1), (1, 2)} <= clusters


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_shared_memory_is_used_up(config: KernelConfig) -> None:
    left = SMEM_CAPACITY - replace(config, tma_scales=False).smem_bytes
    assert left >= config.scales_bytes
    alone = config.partial_accumulators == 2 and config.cluster_m == config.cluster_n == 1
    # Serial loops that have eight stages or more have whole groups of four.
    step = 4 if config.partial_accumulators == 1 and config.stages >= 8 else 1
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
        is_of_use = config.math_warpgroups == 2 and config.layout is not OFFSETS
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
    def rasters(m: int, k: int, layout: Layout = DENSE) -> dict[int, set[int]]:
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
    assert rasters(4096, 16384, MASKED)[256] == {16}


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
    "a tile of two groups": TALL | {"layout": CONTIGUOUS},
    "k-blocks of a tile of groups shared out": {"splits": 2, "epi_n": 128, "layout": MASKED},
    "k-blocks of tiles that share A shared out": {"splits": 2, "epi_n": 128, "cluster_n": 2},
    "k-blocks of a tile of two m-fragments shared out": TALL | {"block_n": 64, "splits": 2},
    "scales by TMA of tiles that begin at any row": {"layout": OFFSETS, "tma_scales": True},
    "a CTA without columns to add up": {"block_m": 64, "block_n": 96, "epi_n": 96, "splits": 5},
}


@pytest.mark.parametrize("change", ILLEGAL)
def test_what_cannot_be_built_is_not_legal(change: str) -> None:
    assert candidates.can_be_built(LEGAL)
    assert candidates.can_be_built(replace(LEGAL, **TALL))
    assert not candidates.can_be_built(replace(LEGAL, **ILLEGAL[change]))


@every_layout
def test_what_candidates_are_compiled_for_beside_their_tile(layout: Layout) -> None:
    """Policy, each with its measurement in `candidates`; for the store and the stages see above."""
    for config in candidates.all_configs(layout=layout):
        few_rows, grouped = config.block_m <= 64, layout is not DENSE
        overlapped = config.partial_accumulators == 2
        assert overlapped == few_rows if not grouped else overlapped <= few_rows
        assert config.prefetch_scales == overlapped
        assert config.l2_promotion == (256 if few_rows == grouped and not overlapped else 128)
        pays = few_rows or (config.splits == 1 and config.cluster_size > 1)
        assert config.dynamic_persistence == (pays and not overlapped)
        assert config.raster_width * config.cluster_m == RASTER_WIDTH
        assert (config.n_fragments, config.block_k, config.recipe) == (1, 128, FP8_1D2D)
        assert not config.tma_scales


ABLE = GemmProblem(128, 128, 1024)
UNABLE: dict[str, dict[str, Any]] = {
    "another layout": {"layout": MASKED},
    "another type of D": {"out_dtype": "float32"},
    "another recipe": {"recipe": replace(FP8_1D2D, name="other", promote_k=64)},
    "a sum on top of D": {"accumulate": True},
    "A that is M-major": {"a_major": "m"},
    "B that is N-major": {"b_major": "n"},
}


@pytest.mark.parametrize("change", UNABLE)
def test_what_no_kernel_of_a_configuration_computes(change: str) -> None:
    problem = replace(ABLE, **UNABLE[change])
    assert candidates.can_compute(ABLE, LEGAL)
    assert not candidates.can_compute(problem, LEGAL)
    assert not candidates.is_candidate(problem, LEGAL)
    if change in ("a sum on top of D", "A that is M-major", "B that is N-major"):
        assert not cost_model.rank(problem)


def test_tiles_of_few_rows_and_shared_k_blocks_compute_less() -> None:
    low = next(config for config in candidates.all_configs() if config.block_m == 8)
    assert candidates.can_compute(replace(ABLE, m=8), low)
    assert not candidates.can_compute(replace(ABLE, m=9), low)
    shared = next(config for config in candidates.all_configs() if config.splits == 4)
    assert candidates.can_compute(replace(ABLE, m=8, k=512), shared)
    assert not candidates.can_compute(replace(ABLE, m=8, k=384), shared)
    assert not candidates.can_compute(replace(ABLE, m=8, k=512, batch_invariant=True), shared)


@given(problem=PROBLEMS)
@settings(max_examples=300, deadline=None)
def test_the_best_is_first_of_all_that_suit(problem: GemmProblem) -> None:
    ranked = cost_model.rank(problem)
    configs = [choice.config for choice in ranked]
    best = cost_model.best(problem)
    # Of some that tie, rounding decides.
    assert cost_model.predict(problem, best).cost_us == pytest.approx(ranked[0].cost_us, rel=1e-9)
    for tma_scales in (False, True):
        assert selection.select(problem, tma_scales) == candidates.as_run(problem, best, tma_scales)
    every = candidates.all_configs(problem.out_dtype, problem.layout)
    suitable = [config for config in every if candidates.is_candidate(problem, config)]
    assert sorted(config.name for config in configs) == sorted(config.name for config in suitable)
    costs = [choice.cost_us for choice in ranked]
    assert costs == sorted(costs)
    assert all(choice == cost_model.predict(problem, choice.config) for choice in ranked)


@given(problem=PROBLEMS)
# Far from what was fitted, by 13 %.
@example(problem=GemmProblem(4194305, 256, 128, "float32"))
@settings(max_examples=300, deadline=None)
def test_no_prediction_beats_the_hardware(problem: GemmProblem) -> None:
    """Of an H200, whose limit no other Hopper GPU is below.

    Of groups without rows B is not read, and contiguous rows may all be padding. Rates of grouped layouts may
    be a little faster than the data sheet.
    """
    problem, sheet = replace(problem, num_sms=132), data_sheet("NVIDIA H200")
    assert sheet is not None
    least_us = sheet.limit_us(problem)
    if problem.layout.is_grouped:
        groups = 0 if problem.layout is CONTIGUOUS else min(problem.groups, problem.m)
        of_b = problem.bytes_of_b // problem.groups * groups
        least_us = 0.85 * of_b / sheet.bytes * 1e6
    assert all(choice.cost_us > max(1.5, least_us) for choice in cost_model.rank(problem))


@given(problem=PROBLEMS)
@settings(deadline=None)
def test_more_k_costs_more(problem: GemmProblem) -> None:
    for config in candidates.all_configs(problem.out_dtype, problem.layout):
        longer = replace(problem, k=problem.k + 128 * config.splits)
        assert cost_model.predict(problem, config).cost_us < cost_model.predict(longer, config).cost_us


def test_every_configuration_has_a_name_of_its_own() -> None:
    assert len({config.name for config in CONFIGS}) == len(CONFIGS)
    assert {config.layout for config in CONFIGS} == set(LAYOUTS.values())
    assert {config.out_dtype for config in CONFIGS} == set(OUT_BYTES)


@given(problem=PROBLEMS)
@settings(max_examples=300, deadline=None)
def test_whatever_is_chosen_computes_everything(problem: GemmProblem) -> None:
    for choice in cost_model.rank(problem):
        config = choice.config
        assert candidates.can_compute(problem, config)
        if config.splits > 1:
            tiles = -(-problem.m // config.block_m) * -(-problem.n // config.block_n)
            assert tiles * config.splits <= problem.num_sms, "CTAs that sum up one tile do not run at once"
            assert config.splits <= problem.scale_blocks, "a CTA without k-blocks"
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
    def height(rows: int, layout: Layout) -> int:
        problem = GemmProblem(32 * rows, 4096, 7168, layout=layout, groups=32)
        assert all(choice.config.layout == layout for choice in cost_model.rank(problem))
        return cost_model.best(problem).block_m

    for layout in (OFFSETS, MASKED):
        assert height(20, layout) == 64
        assert height(2000, layout) > 64


def test_clusters_along_m_are_not_as_high_as_contiguous_groups() -> None:
    def heights(rows: int, layout: Layout) -> set[int]:
        problem = GemmProblem(8 * rows, 4096, 7168, layout=layout, groups=8)
        return {choice.config.block_m for choice in cost_model.rank(problem) if choice.config.cluster_m == 2}

    assert heights(128, CONTIGUOUS) == set()
    assert heights(256, CONTIGUOUS) == heights(128, OFFSETS) == {64}
    assert heights(257, CONTIGUOUS) == heights(256, OFFSETS) == {64, 128}


def test_an_output_smaller_than_a_wave_is_spread_over_the_multiprocessors() -> None:
    best = cost_model.best(GemmProblem(64, 4096, 7168))
    assert 4096 // best.block_n * best.splits > 132 // 3
