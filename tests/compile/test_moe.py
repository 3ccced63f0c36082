"""Kernels around the products of an expert layer, in machine code."""

from itertools import product

import pytest
from levels import cases

from cute_gemm.kernels.moe.route import _UNROLL
from cute_gemm.plan.moe import CombineConfig, MoeConfig, RouteConfig
from cute_gemm.plan.quantizer import SOURCE_BYTES
from cute_gemm.runtime import compiler, moe_builder, quantizer_builder
from cute_gemm.runtime.inspection import KernelStats, read_cubin

REGISTER_FILE = 65536
ROUTES = [RouteConfig(*each) for each in product(("int32", "int64"), (False, True), (8, 32))]
COMBINES = [CombineConfig(*each) for each in product(SOURCE_BYTES, (False, True))]


def compiled(config: MoeConfig) -> KernelStats:
    assert moe_builder.build is quantizer_builder.build
    return read_cubin(compiler.compile_to_cubin(lambda: quantizer_builder.build(config), config.name))


def test_names_tell_configurations_apart() -> None:
    assert len({config.name for config in (*ROUTES, *COMBINES)}) == len(ROUTES) + len(COMBINES)
    assert RouteConfig.of("int32", True, 8).warps < RouteConfig.of("int32", True, 1 << 20).warps


@pytest.mark.parametrize("config", cases(ROUTES, usual=ROUTES[::3]), ids=lambda config: config.name)
def test_routes_are_found_without_atomics_and_spills(config: RouteConfig) -> None:
    stats = compiled(config)
    assert (stats.stack_bytes, stats.local_loads, stats.local_stores) == (0, 0, 0)
    # Two of the largest CTAs, or eight of the smallest, at once.
    assert stats.registers * config.warps * 32 * (2 if config.warps == 32 else 8) <= REGISTER_FILE
    assert not {opcode for opcode in stats.opcodes if opcode.startswith(("ATOM", "RED."))}


@pytest.mark.parametrize("warps", cases([8, 32], usual=[8]))
def test_a_row_has_a_weight_wherever_it_has_a_token(warps: int) -> None:
    """Behind the last row, too: of choices in four steps of a loop, then of rows without one."""
    plain, weighted = (compiled(RouteConfig("int32", has_weights, warps)) for has_weights in (False, True))
    assert weighted.count("STG") - plain.count("STG") == _UNROLL + 1


@pytest.mark.parametrize("config", cases(COMBINES, usual=COMBINES[::5]), ids=lambda config: config.name)
def test_rows_are_asked_for_before_any_is_added(config: CombineConfig) -> None:
    stats = compiled(config)
    assert (stats.stack_bytes, stats.local_loads, stats.local_stores) == (0, 0, 0)
    code = [opcode for opcode in stats.code if opcode.startswith(("LDG", "FADD"))]
    wide = [place for place, opcode in enumerate(code) if opcode.startswith("LDG") and ".128" in opcode]
    loads = wide[config.has_base :]
    assert len(loads) == 8
    assert not any(opcode.startswith("FADD") for opcode in code[loads[0] : loads[-1]])
