"""Kernels that apply epilogues: in each kind of store, without spills.

By default each of some kinds has one epilogue, and each epilogue one kind; with `--thorough` all have all.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from kinds import kinds
from levels import cases

from cute_gemm import epilogue, runtime
from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.runtime import epilogued


@epilogue.function
def many(x: Any, y: Any) -> Any:
    root = epilogue.rsqrt(1.0 + x * x) * epilogue.sqrt(epilogue.exp(y))
    return epilogue.where(x > y, epilogue.log(root), epilogue.clamp(root, -1.0, epilogue.tanh(x)))


def epilogues(config: KernelConfig) -> dict[str, epilogue.Epilogue]:
    """With operands of the dimensions that the configuration's layout has."""
    matrices = (3,) if config.layout.has_matrix_per_group else ()
    groups = (3,) if config.layout.is_grouped else ()
    bias, weights = torch.empty(*groups, 128).bfloat16(), torch.empty(*matrices, 64)
    other = torch.empty(*matrices, 64, 128).half()
    return {
        "bias_silu": epilogue.bias_silu(bias),
        "gelu": epilogue.bias_gelu(bias),
        "residual": epilogue.alpha(torch.empty(1)) | epilogue.residual(other, 0.5),
        "weights": epilogue.row_weights(weights) | epilogue.relu(),
        "many": many(2.0),
    }


CONFIGS = kinds(candidates.every_config())[::5]
NAMES = "bias_silu", "gelu", "residual", "weights", "many"
EACH_ONCE = [(CONFIGS[i % len(CONFIGS)], name) for i, name in enumerate(NAMES)]


@pytest.mark.parametrize(
    ("config", "name"),
    cases(product(CONFIGS, NAMES), usual=EACH_ONCE),
    ids=lambda part: part if isinstance(part, str) else part.name,
)
def test_an_epilogue_spills_nothing(config: KernelConfig, name: str) -> None:
    applied = epilogues(config)[name].applied
    made = epilogued.program(config, applied, list(applied.operands))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stats = runtime.examine(made)
    assert stats.stack_bytes == 0


@pytest.mark.parametrize("name", cases(["swiglu", "accumulate", "quantised"], usual=["quantised"]))
def test_a_program_that_is_built_for_an_epilogue_is_that_of_the_operation(name: str) -> None:
    config = KernelConfig(64, 128, 4)
    given = epilogue.bias_silu(torch.empty(128).bfloat16()) | epilogue.accumulate(0.5)
    if name == "swiglu":
        config, given = replace(config, narrowing=2), epilogue.swiglu() | epilogue.bias(torch.empty(64))
    elif name == "quantised":
        config = replace(config, out_dtype="float8_e4m3fn", epi_n=128, epi_stages=1)
        given = epilogue.relu() | epilogue.quantize_1x128()
    out = torch.empty(64, 128, dtype=torch.bfloat16)
    operands = [out if each is None else each for each in given.applied.operands]
    by_hand = runtime.examine(runtime.build(config, epilogue=given))
    assert by_hand.code == runtime.examine(epilogued.program(config, given.applied, operands)).code


@pytest.mark.parametrize(("columns", "loads"), cases([(128, 4), (64, 2)], usual=[(64, 2)]))
def test_each_lane_loads_a_part_of_what_a_tile_needs_of_its_columns(columns: int, loads: int) -> None:
    """Once a tile, not once for each of its elements."""
    config = next(
        each
        for each in candidates.every_config()
        if (each.block_m, each.block_n) == (128, columns) and each.layout.name == "dense"
    )
    counts = []
    for made in (epilogue.silu(), epilogue.bias_silu(torch.empty(512))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stats = runtime.examine(epilogued.program(config, made.applied, list(made.applied.operands)))
        counts.append(stats.count("LDG"))
        assert stats.count("MUFU.TANH") == config.fragments * config.fragment_n // 2
    assert counts[1] - counts[0] == loads
