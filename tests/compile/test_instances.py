"""Kernels compile for Hopper anywhere, and are in machine code what their source means.

A few of all kinds, and with `--exhaustive` every one that can be chosen. ptxas does not say so when it spills
registers or waits for each WGMMA by itself; both are only seen here.
"""

from typing import Any, NamedTuple

import pytest
from cutlass.experimental.cuda import TensorMapL2Promotion
from instances import compiled, parametrize

from cute_gemm.kernels.sm90 import tensor_maps
from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import DENSE, MASKED
from cute_gemm.plan.limits import SMEM_CAPACITY, STATIC_SMEM, ceil_div
from cute_gemm.runtime import builder
from cute_gemm.runtime.inspection import KernelStats, read_cubin

CONFIGS = candidates.every_config()
REGISTER_FILE = 65536
WARPGROUP = 128
GLOBAL_MEMORY = {
    *("LD", "LDG", "LDGSTS", "ST", "STG", "RED", "REDG", "ATOM", "ATOMG", "CCTL"),
    *("UBLKCP", "UBLKPF", "UTMALDG", "UTMAPF", "UTMASTG", "UTMAREDG"),
}
WGMMAS_PER_BLOCK = 4
"""A WGMMA of e4m3 is 32 deep, a k-block 128."""


class Instance(NamedTuple):
    config: KernelConfig
    kernel: Any
    stats: KernelStats

    @property
    def threads(self) -> int:
        return (self.config.math_warpgroups + 1) * WARPGROUP

    @property
    def blocks_multiplied(self) -> int:
        """How often the code multiplies 64 rows by a k-block, in all its copies of the loop."""
        return self.stats.count("QGMMA") // WGMMAS_PER_BLOCK

    @property
    def rows(self) -> int:
        """That are multiplied of a tile: with 8, 64 are."""
        return 64 * self.config.math_warpgroups * self.config.m_fragments

    @property
    def stored_columns(self) -> int:
        """Columns of a tile that a CTA stores, all of its rows."""
        return 8 * ceil_div(self.config.block_n, 8 * self.config.splits)

    @property
    def blocks_promoted(self) -> int:
        """With two accumulators, what is in flight behind the loop is promoted in either of two places."""
        return self.blocks_multiplied + (self.config.partial_accumulators - 1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, CONFIGS)


@pytest.fixture(scope="module")
def instance(request: pytest.FixtureRequest) -> Instance:
    return Instance(request.param, *compiled(request.param))


def draws(config: KernelConfig) -> int:
    """Places in a kernel where clusters draw tiles: one more where padding is passed over."""
    return 1 + config.layout.has_padding if config.dynamic_persistence else 0


def test_registers_suffice(instance: Instance) -> None:
    stats, kernel = instance.stats, instance.kernel
    assert (stats.stack_bytes, stats.local_loads, stats.local_stores) == (0, 0, 0)
    assert stats.registers * instance.threads <= REGISTER_FILE
    assert stats.registers == {1: 240, 2: 168}[instance.config.math_warpgroups]
    # One warpgroup hands registers over to the others; more than there are, and they would wait for ever.
    assert stats.count("USETMAXREG.DEALLOC") == stats.count("USETMAXREG.TRY_ALLOC") == 1
    after = kernel.producer_registers + instance.config.math_warpgroups * kernel.math_registers
    assert after * WARPGROUP <= stats.registers * instance.threads


def test_shared_memory_is_what_the_configuration_says(instance: Instance) -> None:
    dynamic = instance.kernel.Storage.size_in_bytes()
    assert instance.stats.shared_bytes == STATIC_SMEM
    assert instance.config.smem_bytes == STATIC_SMEM + dynamic <= SMEM_CAPACITY


def test_tensor_cores_multiply_whole_blocks(instance: Instance) -> None:
    stats, config = instance.stats, instance.config
    opcode = f"QGMMA.64x{config.block_n}x32.F32.E4M3.E4M3"
    assert {name for name in stats.opcodes if "GMMA" in name} == {opcode}
    assert stats.count("QGMMA") % (WGMMAS_PER_BLOCK * config.m_fragments) == 0


def test_wgmma_is_not_serialised(instance: Instance) -> None:
    """A fence and a wait for each k-block; ptxas adds its own where accumulators are touched in flight."""
    stats = instance.stats
    assert stats.count("WARPGROUP.ARRIVE") == instance.blocks_multiplied
    assert stats.count("WARPGROUP.DEPBAR") == instance.blocks_promoted
    loop = stats.main_loop
    assert loop is not None
    blocks = loop.count("QGMMA") // WGMMAS_PER_BLOCK
    assert blocks >= 2
    assert loop.count("WARPGROUP.DEPBAR") == loop.count("WARPGROUP.ARRIVE") == blocks


def test_promotion_is_one_ffma_for_each_element(instance: Instance) -> None:
    stats, elements = instance.stats, 64 * instance.config.block_n // WARPGROUP
    assert stats.count("FFMA") == instance.blocks_promoted * elements
    loop = stats.main_loop
    assert loop is not None
    assert loop.count("FFMA") == loop.count("QGMMA") // WGMMAS_PER_BLOCK * elements
    assert loop.count("FADD") == 0


def test_operands_come_and_results_go_by_tma(instance: Instance) -> None:
    stats, config = instance.stats, instance.config
    # A copy of the instruction, where tiles of a cluster may be of two groups.
    own = 1 if config.layout.is_grouped and config.cluster_m > 1 else 0
    # B, and A with its staged scales, by multicast where a cluster shares them.
    multicast = (config.cluster_m > 1) + (config.cluster_n > 1) * (1 + config.tma_scales) + own
    assert stats.count("UTMALDG") == 2 + own + config.tma_scales
    # Several matrices take one dimension more than one does.
    several = config.layout.is_grouped + config.layout.has_matrix_per_group * (1 + config.tma_scales)
    assert stats.count("UTMALDG.3D") == several + own
    assert stats.count("UTMALDG.2D.MULTICAST", "UTMALDG.3D.MULTICAST") == multicast
    assert (stats.count("UCGABAR_WAIT") > 0) == (config.cluster_size > 1)
    # A chunk of 64 rows by epi_n columns at a time.
    chunks = config.m_fragments * config.block_n // config.epi_n
    assert stats.count("UTMASTG") == (chunks if config.splits == 1 else 0)
    assert stats.count("ST", "RED") == 0
    # To draw, and to say that no more is drawn.
    assert (
        stats.count("ATOMG")
        == stats.count("ATOMG.E.ADD.STRONG.GPU")
        == draws(config) + config.dynamic_persistence
    )


def test_the_end_of_earlier_kernels_is_awaited_before_global_memory_is_touched(instance: Instance) -> None:
    """In the order of addresses, which is that of execution up to the wait: no branch goes past it.

    L2 may fetch before: what is still written goes there.
    """
    code = [opcode.partition(".")[0] for opcode in instance.stats.code]
    assert code.count("ACQBULK") == 1
    # Dependents start at once, or where tiles may be drawn, as soon as none is to be, or when none is left.
    assert code.count("PREEXIT") == 1 + 2 * instance.config.dynamic_persistence
    wait = code.index("ACQBULK")
    early = [opcode for opcode in code[:wait] if opcode in GLOBAL_MEMORY]
    assert early == ["UTMAPF"] * (instance.config.early_k_blocks > 0)
    assert (instance.config.early_k_blocks > 0) == (not instance.config.layout.is_grouped)
    assert {"LDG", "UTMALDG"} <= GLOBAL_MEMORY.intersection(code[wait:])
    assert wait < code.index("PREEXIT")


def test_rows_of_a_tile_that_is_not_stored_whole_go_one_by_one(instance: Instance) -> None:
    """Two columns at a time, where TMA would store what belongs to another group."""
    stats, config = instance.stats, instance.config
    elements = instance.rows * instance.stored_columns // (config.math_warpgroups * WARPGROUP)
    width = ".E" if config.out_dtype == "bfloat16" else ".E.64"
    one_by_one = config.layout.is_grouped or config.splits > 1
    # Two words of the semaphore that clusters draw from.
    others = 2 * config.dynamic_persistence + zeros(config)
    assert stats.count("STG") == one_by_one * elements // 2 + others
    assert stats.count(f"STG{width}") == one_by_one * elements // 2 + (others if width == ".E" else 0)


def zeros(config: KernelConfig) -> int:
    """Places in a kernel where zeros are stored to rows of no group."""
    return 1 if config.layout.is_grouped else 0


def test_rows_of_no_group_are_filled_by_whole_vectors_where_there_may_be_any(instance: Instance) -> None:
    stats, config = instance.stats, instance.config
    assert instance.kernel.can_fill == config.layout.is_grouped
    assert stats.count("STG.E.128") == zeros(config)
    # What groups have is found out by the lanes together.
    assert stats.count("REDUX.OR") == (config.layout.table_bytes > 0)


def test_scales_are_read_from_the_stages_where_tma_brings_them(instance: Instance) -> None:
    """A number for each of two rows of every block that is multiplied; else by loads and shuffles."""
    stats, config = instance.stats, instance.config
    # Where k-blocks are shared out and in the grouped layouts, others read numbers from shared memory, too.
    if config.layout is DENSE and config.splits == 1:
        broadcasts = draws(config) if config.cluster_size > 1 else 0
        assert (
            stats.opcodes["LDS"] == (2 * instance.blocks_multiplied if config.tma_scales else 0) + broadcasts
        )


def test_results_pass_through_shared_memory(instance: Instance) -> None:
    stats, config = instance.stats, instance.config
    elements = instance.rows * config.block_n // (config.math_warpgroups * WARPGROUP)
    if config.splits > 1:
        # Four elements at a time, to where they are added up, and from there those of each CTA.
        assert stats.count("STSM", "STS.64") == 0
        assert stats.count("STAS.128") == elements // 4
        assert stats.count("LDS.128") >= config.splits * instance.stored_columns // 8
    elif config.out_dtype == "bfloat16":
        # stmatrix: 8 elements of each thread.
        assert stats.count("STSM.16.M88.4") == elements // 8
        assert stats.count("STS.64") == 0
    else:
        assert stats.count("STS.64") == elements // 2
        assert stats.count("STSM") == 0
    assert stats.count("LDSM", "LD") == 0
    # A slot of the work queue, and what a CTA adds up itself, which may be any eight columns.
    own = elements // 4 if config.splits > 1 else 0
    assert stats.count("STS.128") == 2 + own
    # A number at a time: the schedulers' table.
    assert (stats.opcodes["STS"] > 0) == (config.layout.table_bytes > 0)
    assert {name for name in stats.opcodes if name.startswith("LDG")} == {"LDG.E"}


# Of 16 rows, maps by another way are the same instructions with other operands.
PROMOTING = [
    next(
        config
        for config in CONFIGS
        if config.l2_promotion == 256 and config.layout is layout and config.block_m >= 64
    )
    for layout in (DENSE, MASKED)
]


@pytest.mark.parametrize("config", PROMOTING, ids=lambda config: config.name)
def test_loads_go_by_maps_that_promote(config: KernelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """No result says which maps were used, so it must be in the code."""
    promotions: list[Any] = []
    create = tensor_maps.create_tensor_map_tiled

    def note(*arguments: Any, **options: Any) -> Any:
        promotions.append(options["l2_promotion"])
        return create(*arguments, **options)

    monkeypatch.setattr(tensor_maps, "create_tensor_map_tiled", note)
    cubin = builder.cubin(config)
    assert promotions == [TensorMapL2Promotion.l2_256b] * 2
    monkeypatch.setattr(tensor_maps, "pointers", lambda maps: (None, None))
    assert code(builder.cubin(config)) != code(cubin)


def code(cubin: bytes) -> tuple[str, ...]:
    return read_cubin(cubin).code
