"""Kernels that apply epilogues: in each kind of store, without spills."""

from __future__ import annotations

import warnings

import pytest
import torch
from kinds import kinds

from cute_gemm import epilogue, runtime
from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.runtime import epilogued

BIAS, WEIGHTS, OTHER = torch.empty(128).bfloat16(), torch.empty(64), torch.empty(64, 128).bfloat16()
EPILOGUES = {
    "bias_silu": epilogue.bias_silu(BIAS),
    "gelu": epilogue.bias_gelu(BIAS),
    "residual": epilogue.alpha(0.5) | epilogue.residual(OTHER),
    "weights": epilogue.row_weights(WEIGHTS) | epilogue.relu(),
}
CONFIGS = kinds(candidates.every_config())


@pytest.mark.parametrize("name", EPILOGUES)
@pytest.mark.parametrize("config", CONFIGS[::5], ids=lambda config: config.name)
def test_an_epilogue_spills_nothing(config: KernelConfig, name: str) -> None:
    applied = EPILOGUES[name].applied
    made = epilogued.program(config, applied.key, applied.stages, list(applied.operands))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stats = runtime.examine(made)
    assert stats.stack_bytes == 0
