"""What a problem and a configuration say of themselves, by counting."""

from dataclasses import FrozenInstanceError, replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import MASKED, OFFSETS
from cute_gemm.plan.limits import MAX_GROUPS, OUT_BYTES, SMEM_CAPACITY, STATIC_SMEM, ceil_div
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.plan.recipe import FP8_1D2D
from cute_gemm.testing import make_inputs

CONFIGS = candidates.every_config()
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}

every_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)


@given(a=st.integers(0, 2**40), b=st.integers(1, 2**20))
def test_ceil_div(a: int, b: int) -> None:
    quotient = ceil_div(a, b)
    assert (quotient - 1) * b < a <= quotient * b


@pytest.mark.parametrize("out_dtype", OUT_BYTES)
@pytest.mark.parametrize(("m", "n", "k"), [(3, 24, 144), (128, 128, 128), (130, 264, 16), (0, 8, 256)])
def test_bytes_moved_are_those_of_the_tensors(m: int, n: int, k: int, out_dtype: str) -> None:
    (a, sa), (b, sb) = make_inputs(m, n, k)
    out = torch.empty(m, n, dtype=DTYPES[out_dtype])
    problem = GemmProblem(m, n, k, out_dtype)
    assert problem.bytes_moved == sum(x.numel() * x.element_size() for x in (a, sa, b, sb, out))
    assert problem.scale_blocks == sa.shape[1] == sb.shape[1]
    # A multiplication and an addition for each element of A times each row of B.
    assert problem.flops == 2 * a.numel() * len(b)


def test_problems_and_configurations_are_keys() -> None:
    problem, config = GemmProblem(1, 8, 16), CONFIGS[0]
    for value, change in ((problem, {"m": 2}), (config, {"stages": 3})):
        assert {value: 1}[replace(value)] == 1
        assert replace(value, **change) != value
        with pytest.raises(FrozenInstanceError):
            value.out_dtype = "float32"


def test_a_name_says_what_tells_a_configuration_from_others() -> None:
    wide = KernelConfig(256, 128, 4, cluster_m=2, raster_width=8)
    assert wide.name == "256x128_c2x1_s4_bf16"
    low = KernelConfig(64, 112, 9, cluster_n=4, partial_accumulators=2, out_dtype="float32")
    assert low.name == "64x112_c1x4_s9_t2_fp32"
    assert replace(low, cluster_n=1, splits=3).name == "64x112_c1x1_k3_s9_t2_fp32"
    assert replace(wide, layout=MASKED).name == "256x128_c2x1_s4_bf16_masked"
    # Of sixteen tiles along M a name says nothing.
    assert replace(wide, raster_width=4).name == "256x128_c2x1_s4_r8_bf16"
    scaled = replace(wide, raster_width=4, layout=MASKED, tma_scales=True)
    assert scaled.name == "256x128_c2x1_s4_r8_bf16_masked_tma-scales"
    # What it is compiled for beside its tile, where that is not what most have.
    drawn = replace(wide, dynamic_persistence=True, l2_promotion=256, prefetch_scales=True)
    assert drawn.name == "256x128_c2x1_s4_dyn_l2p256_pf_bf16"
    assert replace(wide, n_fragments=2, block_k=64).name == "256x128_n2_bk64_c2x1_s4_bf16"
    other = replace(FP8_1D2D, name="other")
    assert replace(wide, recipe=other).name == "other_256x128_c2x1_s4_bf16"
    assert len({config.name for config in CONFIGS}) == len(set(CONFIGS)) == len(CONFIGS)


@every_config
def test_shared_memory_holds_its_parts(config: KernelConfig) -> None:
    e4m3 = 1
    tiles = (config.block_m + config.block_n) * config.block_k * e4m3
    rows = 64 * config.math_warpgroups
    stores = rows * config.epi_n * config.epi_stages * OUT_BYTES[config.out_dtype]
    if config.splits > 1:
        # FP32 from each CTA, of whole groups of eight columns, and a barrier, aligned.
        stores = rows * config.splits * 8 * ceil_div(config.block_n // 8, config.splits) * 4 + 1024
    assert config.stage_bytes == tiles
    assert config.store_bytes == stores
    table = 4 * (MAX_GROUPS + 2) if config.layout in (OFFSETS, MASKED) else 0
    assert config.layout.table_bytes == table
    # A number for each row of each stage, aligned.
    scales = ceil_div(4 * config.block_m * config.stages, 1024) * 1024 if config.tma_scales else 0
    assert config.scales_bytes == scales
    barriers = config.smem_bytes - STATIC_SMEM - table - scales - config.stages * tiles - stores
    assert 2 * 8 * config.stages <= barriers <= 1024
    assert config.smem_bytes <= SMEM_CAPACITY


@every_config
def test_warpgroups_and_fragments_cover_the_tile(config: KernelConfig) -> None:
    # With 8 rows, 64 are multiplied.
    assert max(config.block_m, 64) == 64 * config.math_warpgroups * config.m_fragments
    assert config.block_n == config.fragment_n * config.n_fragments
    assert config.fragments == config.m_fragments * config.n_fragments
    assert config.cluster_size == config.cluster_m * config.cluster_n * config.splits


@every_config
def test_tiles_cover_at_most_two_scales_of_b_and_groups_of_columns_one(config: KernelConfig) -> None:
    covered = set()
    for first in range(0, 64 * config.block_n, config.block_n):
        scales = [column // config.recipe.scale_n for column in range(first, first + config.block_n)]
        covered.add(len(set(scales)))
        groups = [scales[i : i + config.scale_group_n] for i in range(0, len(scales), config.scale_group_n)]
        assert all(len(set(group)) == 1 for group in groups)
    assert max(covered) == (2 if config.straddles else 1)


def test_fragments_may_lie_side_by_side() -> None:
    """Geometry alone: no candidate has them."""
    stacked = KernelConfig(256, 128, 4)
    beside = KernelConfig(128, 256, 4, n_fragments=2)
    assert (stacked.m_fragments, stacked.fragments, stacked.fragment_n) == (2, 2, 128)
    assert (beside.m_fragments, beside.fragments, beside.fragment_n) == (1, 2, 128)
    assert not beside.straddles
