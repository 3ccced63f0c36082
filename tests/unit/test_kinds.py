"""The few configurations that stand for all: between them they have all that shapes a kernel's code."""

import pytest
from kinds import features, few, kinds, missing, outlines

from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import LAYOUTS
from cute_gemm.plan.limits import OUT_BYTES

CONFIGS = candidates.every_config()
KINDS = kinds(CONFIGS)


def test_kinds_cover_all_configurations() -> None:
    assert not missing(KINDS, CONFIGS)
    assert set(KINDS) <= set(CONFIGS)


def test_kinds_are_few() -> None:
    assert len(KINDS) <= len(CONFIGS) // 15


def test_a_kind_that_is_left_out_is_missed() -> None:
    """Of most: a greedy cover may have one that others have come to make up for."""
    needed = [config for config in KINDS if missing([each for each in KINDS if each is not config], CONFIGS)]
    assert len(needed) >= len(KINDS) * 3 // 4


def test_kinds_do_not_depend_on_chance() -> None:
    assert kinds(CONFIGS) == KINDS


@pytest.mark.parametrize("out_dtype", OUT_BYTES)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
def test_kinds_have_tiles_of_all_layouts(layout: object, out_dtype: str) -> None:
    """What is known to be there, said without `features`."""
    some = [config for config in KINDS if config.layout is layout]
    every = [config for config in CONFIGS if config.layout is layout]
    for name in ("block_m", "tma_scales", "dynamic_persistence", "m_fragments", "straddles", "cluster_m"):
        assert {getattr(config, name) for config in some} == {getattr(config, name) for config in every}, name
    assert any(config.out_dtype == out_dtype for config in some)
    assert any(config.cluster_n > 1 for config in some)


@pytest.mark.parametrize("configs", [CONFIGS, candidates.every_reducing_config()], ids=["all", "reducing"])
def test_a_few_have_all_that_shapes_code_in_some_layout(configs: list[KernelConfig]) -> None:
    some = few(configs)
    assert not missing(some, configs, outlines)
    without = ([each for each in some if each is not config] for config in some)
    assert sum(bool(missing(others, configs, outlines)) for others in without) >= len(some) * 3 // 4
    assert len(some) <= len(kinds(configs)) // 2
    for name in ("layout", "block_m", "splits", "cluster_n", "out_dtype", "tma_scales", "m_fragments"):
        assert {getattr(config, name) for config in some} == {getattr(config, name) for config in configs}


def test_what_shapes_code_is_a_feature() -> None:
    config = KINDS[0]
    assert (config.layout.name, "height", config.block_m) in features(config)
    assert {config.splits for config in KINDS} == {config.splits for config in CONFIGS}
    assert {config.cluster_size for config in KINDS} == {config.cluster_size for config in CONFIGS}
