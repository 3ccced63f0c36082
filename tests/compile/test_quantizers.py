"""Kernels that quantise: compiled for Hopper, and read."""

from __future__ import annotations

import functools
import itertools

import pytest

from cute_gemm.plan.quantizer import (
    BlockQuantizer,
    BothWaysQuantizer,
    NormQuantizer,
    Quantizer,
    RowQuantizer,
)
from cute_gemm.runtime import compiler, inspection
from cute_gemm.runtime.quantizer_builder import build

DTYPES = ("bfloat16", "float16", "float32")
SOURCES = ("plain", "swiglu", "swiglu_interleaved")
ROWS = ("all", "gathered", "valid", "owned", "offsets")


def every_quantizer() -> list[Quantizer]:
    """Each part with each other one, in some kernel."""
    found: list[Quantizer] = []
    for number, (dtype, source, rows) in enumerate(itertools.product(DTYPES, SOURCES, ROWS)):
        index_dtype = "int64" if rows == "gathered" and number % 2 else "int32"
        has_matrices = rows == "valid" or (rows == "all" and number % 2 == 0)
        found.append(
            RowQuantizer(dtype, has_matrices, source, rows, index_dtype, number % 4 < 2, 1 + number % 2)
        )
    both = False, True
    for dtype, *features in itertools.product(DTYPES, both, both, both):
        found.append(BlockQuantizer(dtype, *features))
    found += [
        BothWaysQuantizer(dtype, has_matrices, has_matrices)
        for dtype in DTYPES
        for has_matrices in (False, True)
    ]
    for dtype, rows in itertools.product(DTYPES, ("offsets", "ends")):
        found.append(BothWaysQuantizer(dtype, False, dtype == "float16", rows))
    extents = itertools.product(DTYPES, (512, 1024, 2048, 7168, 8192))
    for number, ((dtype, k), rows) in enumerate(zip(extents, itertools.cycle(ROWS))):
        for kind in ("all", rows):
            made = NormQuantizer.of(
                dtype,
                k,
                has_matrices=kind == "valid" or (kind == "all" and number % 2 == 0),
                has_residual=number % 3 > 0 and kind != "gathered",
                rows=kind,
                index_dtype="int64" if kind == "gathered" and number % 2 else "int32",
                is_power_of_two=number % 2 == 0,
            )
            assert made is not None
            found.append(made)
    return [*dict.fromkeys(found)]


def ctas(registers: int, threads: int) -> int:
    """How many are on an SM at once: each of its four parts has registers of whole warps, in units of 256."""
    of_warp = -(-registers * 32 // 256) * 256
    return 4 * (16384 // of_warp) // (threads // 32)


def wanted_ctas(config: Quantizer) -> int:
    """So many that some load while others work."""
    if config.dtype == "float32":
        return 1
    if isinstance(config, RowQuantizer):
        return 6 if config.source == "plain" else 5
    return 3 if isinstance(config, BothWaysQuantizer) else 5


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    step = 1 if metafunc.config.getoption("exhaustive") else 7
    configs = every_quantizer()[::step]
    if "row_config" in metafunc.fixturenames:
        rows = [config for config in configs if isinstance(config, RowQuantizer)]
        metafunc.parametrize("row_config", rows, ids=lambda config: config.name)
    else:
        metafunc.parametrize("config", configs, ids=lambda config: config.name)


@functools.cache
def stats_of(config: Quantizer) -> inspection.KernelStats:
    return inspection.read_cubin(compiler.compile_to_cubin(lambda: build(config), config.name))


def test_a_quantizer_spills_nothing_and_leaves_room_for_others(config: Quantizer) -> None:
    stats = stats_of(config)
    assert stats.stack_bytes == 0
    # A CTA has at most half of the registers, so that the loads of another one are under way.
    assert stats.registers * getattr(config, "threads", 256) <= 32768
    assert ctas(stats.registers, getattr(config, "threads", 256)) >= wanted_ctas(config)
    opcodes = [each.split(".")[0] for each in stats.opcodes]
    assert "LDL" not in opcodes
    assert "CALL" not in opcodes


def test_warps_without_a_row_leave_before_they_load_any(row_config: RowQuantizer) -> None:
    code = stats_of(row_config).code
    first = next(i for i, opcode in enumerate(code) if opcode.startswith("LDG.E.128"))
    before = [opcode.split(".")[0] for opcode in code[:first]]
    assert ("EXIT" in before) == (row_config.rows != "all")
    assert "F2FP" not in before
