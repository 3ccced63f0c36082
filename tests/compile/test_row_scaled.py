"""Kernels of products whose B has scales of each row, also of groups of columns."""

from typing import Any, NamedTuple

import pytest
from instances import compiled, parametrize

from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.limits import SMEM_CAPACITY, STATIC_SMEM
from cute_gemm.runtime.inspection import KernelStats

CONFIGS = candidates.every_row_scaled_config()
WARPGROUP = 128
WGMMAS_PER_BLOCK = 4


class Instance(NamedTuple):
    config: KernelConfig
    kernel: Any
    stats: KernelStats

    @property
    def promoted(self) -> int:
        """How often the code promotes a fragment, in all its copies of the loop."""
        return self.stats.count("QGMMA") // WGMMAS_PER_BLOCK + (self.config.partial_accumulators - 1)

    @property
    def elements(self) -> int:
        """Of a fragment, that a thread has."""
        return 64 * self.config.fragment_n // WARPGROUP


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, CONFIGS)


@pytest.fixture(scope="module")
def instance(request: pytest.FixtureRequest) -> Instance:
    return Instance(request.param, *compiled(request.param))


def test_registers_suffice(instance: Instance) -> None:
    stats = instance.stats
    assert (stats.stack_bytes, stats.local_loads, stats.local_stores) == (0, 0, 0)
    assert stats.registers == {1: 240, 2: 168}[instance.config.math_warpgroups]


def test_shared_memory_is_what_the_configuration_says(instance: Instance) -> None:
    dynamic = instance.kernel.Storage.size_in_bytes()
    assert instance.stats.shared_bytes == STATIC_SMEM
    assert dynamic <= instance.config.smem_bytes - STATIC_SMEM <= SMEM_CAPACITY - STATIC_SMEM


def test_wgmma_is_not_serialised(instance: Instance) -> None:
    stats = instance.stats
    assert stats.count("WARPGROUP.ARRIVE") == stats.count("QGMMA") // WGMMAS_PER_BLOCK
    assert stats.count("WARPGROUP.DEPBAR") == instance.promoted


def test_promotion_is_two_operations_for_each_element(instance: Instance) -> None:
    """And a load of two scales for each eight columns, and of two elements of D where that is loaded."""
    config, stats, each = instance.config, instance.stats, instance.promoted * instance.elements
    assert stats.count("FFMA") == stats.count("FMUL") == each
    assert stats.count("FADD") == (config.fragments * instance.elements if config.loads_out else 0)
    # A role reads two words of its tile so where more varies from tile to tile, or the one that carries D.
    of_tile = 1 if config.layout.has_result_per_group or config.loads_out else 0
    of_out = config.chunks * config.epi_n // 4 if config.loads_out else 0
    assert stats.opcodes["LDS.64"] == each // 4 + of_tile + of_out
    assert stats.opcodes["LDS"] >= 2 * instance.promoted
    loop = stats.main_loop
    assert loop is not None
    blocks = loop.count("QGMMA") // WGMMAS_PER_BLOCK
    assert loop.count("FFMA") == loop.count("FMUL") == blocks * instance.elements


def test_operands_and_both_scales_come_by_tma(instance: Instance) -> None:
    stats, config = instance.stats, instance.config
    # D before the first tile, and before each that follows.
    of_out = 2 * config.math_warpgroups * config.chunks if config.loads_out else 0
    assert stats.count("UTMALDG") == stats.count("UTMALDG.2D") == 4 + of_out  # also of groups of columns
    # B where CTAs along M share it, A and its scales where those along N do; scales of B for each CTA alone.
    multicast = (config.cluster_m > 1) + 2 * (config.cluster_n > 1)
    assert stats.count("UTMALDG.2D.MULTICAST") == multicast


def test_sums_are_stored_or_added(instance: Instance) -> None:
    stats, config = instance.stats, instance.config
    stored, added = (0, config.chunks) if config.accumulates else (config.chunks, 0)
    if config.loads_out:  # by one warp for all warpgroups, each of which has buffers of its own
        stored, added = config.math_warpgroups * config.chunks, 0
    assert stats.count("UTMASTG") == stored
    rank = 3 if config.layout.has_result_per_group else 2
    assert stats.count("UTMAREDG") == stats.count(f"UTMAREDG.{rank}D.ADD") == added
    assert stats.count("ST", "RED") == 0


def test_a_short_k_block_is_trimmed_where_groups_of_columns_have_one(instance: Instance) -> None:
    """The threads of a warpgroup write to its rows of A, and by turns to those of B.

    In one place, where a tile goes by whole groups of stages and short k-blocks come behind; else in all
    copies of the loop.
    """
    config = instance.config
    turns = 1 + -(-config.block_n // WARPGROUP) if config.layout.has_result_per_group else 0
    places = 1 if config.stages % 4 == 0 else instance.promoted // config.m_fragments
    # Beside those of the work queue.
    assert instance.stats.opcodes["STS.128"] == 2 + turns * places
