"""Kernels of configurations as compile tests take them: one after the other, each compiled once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from kinds import few

from cute_gemm.plan.config import KernelConfig
from cute_gemm.runtime import builder, compiler
from cute_gemm.runtime.inspection import KernelStats, read_cubin


def parametrize(metafunc: pytest.Metafunc, configs: Sequence[KernelConfig]) -> None:
    """The fixture `instance`, by configuration, so that all tests of a kernel run before the next."""
    if "instance" in metafunc.fixturenames:
        chosen = configs if metafunc.config.getoption("exhaustive") else few(configs)
        params = [
            pytest.param(config, id=config.name, marks=pytest.mark.xdist_group(config.name))
            for config in chosen
        ]
        metafunc.parametrize("instance", params, indirect=True, scope="module")


def compiled(config: KernelConfig) -> tuple[Any, KernelStats]:
    """The kernel object, and what is in its machine code."""
    program = builder.build(config)
    cubin = compiler.compile_to_cubin(lambda: (program.kernel, program.arguments), config.name)
    return program.kernel, read_cubin(cubin)
