"""Why no kernel can be built for a configuration: each rule, by one that breaks that rule alone."""

from dataclasses import replace
from typing import Any

import pytest

from cute_gemm.plan import candidates
from cute_gemm.plan.buildable import why_unbuildable
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import CONTIGUOUS, OFFSETS
from cute_gemm.runtime import builder

CONFIG = KernelConfig(128, 128, 4)

ADDING = {"out_dtype": "float32", "accumulates": True, "loads_out": True, "epi_n": 32}

BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "height": ({"block_m": 96}, "block_m is 96; wanted one of 8, 16, 64, 128, 256"),
    "width": ({"block_n": 100}, "wanted fragments of 16 to 256 columns"),
    "no width": ({"block_n": 0}, "block_n is 0"),
    "wide fragment": ({"block_n": 512, "stages": 2}, "block_n is 512 in 1 fragments"),
    "parts of fragments": ({"n_fragments": 3}, "block_n is 128 in 3 fragments"),
    "three scales": ({"block_n": 240, "epi_n": 16, "stages": 3}, "more than two scales of B"),
    "store buffer": ({"block_n": 80}, "pass epi_n=16 or 80"),
    "one store buffer": ({"epi_stages": 1}, "epi_stages is 1"),
    "no stages": ({"stages": 0}, "stages is 0; wanted at least 1"),
    "one stage": ({"stages": 1}, "stages is 1; wanted at least 2"),
    "no cluster": ({"cluster_m": 0}, "cluster_m is 0"),
    "large cluster": ({"cluster_m": 4, "cluster_n": 4}, "16 CTAs; wanted at most 8"),
    "type": ({"out_dtype": "float16"}, "out_dtype is 'float16'"),
    "name of a layout": ({"layout": "offsets"}, "layout is 'offsets'"),
    "layout": ({"layout": CONTIGUOUS, "block_m": 256, "stages": 3}, "the contiguous layout does not allow"),
    "scales of a layout": ({"layout": OFFSETS, "tma_scales": True}, "the offsets layout does not allow"),
    "depth": ({"block_k": 64}, "block_k is 64; wanted 128"),
    "promotion in L2": ({"l2_promotion": 100}, "l2_promotion is 100"),
    "accumulators": ({"partial_accumulators": 3}, "partial_accumulators is 3"),
    "two accumulators": ({"block_m": 256, "stages": 3, "partial_accumulators": 2}, "for 2 fragments"),
    "two that draw": ({"prefetch_scales": True, "dynamic_persistence": True}, "would draw tiles"),
    "a loaded D": ({"loads_out": True}, "adds to a D that it loads"),
    "part of a loaded D": ({**ADDING, "epi_stages": 2}, "epi_stages is 2, and D is loaded; wanted 4"),
    "shared memory": ({"stages": 8}, "bytes of shared memory"),
}


@pytest.mark.parametrize("change", BROKEN)
def test_a_rule_that_is_broken_is_named(change: str) -> None:
    fields, message = BROKEN[change]
    config = replace(CONFIG, **fields)
    assert message in why_unbuildable(config)
    assert not candidates.can_be_built(config)
    with pytest.raises(ValueError, match="cannot be built"):
        builder.build(config)


def test_what_can_be_built_breaks_none() -> None:
    side_by_side = KernelConfig(128, 256, stages=3, n_fragments=2)
    adding = replace(CONFIG, **ADDING, epi_stages=4)
    assert {
        why_unbuildable(config) for config in (CONFIG, side_by_side, adding, *candidates.every_config())
    } == {""}
