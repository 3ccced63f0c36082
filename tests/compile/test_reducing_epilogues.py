"""Kernels that reduce over columns: without spills, and with what the epilogue should take.

A few configurations are compiled, with `--thorough` one of each kind, with `--exhaustive` all.
"""

from __future__ import annotations

import warnings
from itertools import product
from typing import Any

import cutlass
import cutlass.cute as cute
import pytest
import torch
from kinds import few, kinds
from levels import cases

from cute_gemm import epilogue, runtime
from cute_gemm.kernels.epilogue import ByteRowStore, Place
from cute_gemm.kernels.sm90.mma import fragment_mma
from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import DENSE
from cute_gemm.plan.limits import STATIC_SMEM
from cute_gemm.runtime import epilogued
from cute_gemm.runtime.inspection import KernelStats

ALL = candidates.every_reducing_config()
KINDS = kinds(ALL)
FEW = few(ALL)
LAYOUTS = sorted({each.layout.name for each in ALL})


@epilogue.gated
def own(gate: Any, up: Any, alpha: Any) -> Any:
    return gate * epilogue.sigmoid(alpha * gate) * (up + 1.0)


def epilogues(config: KernelConfig) -> dict[str, epilogue.Epilogue]:
    """With operands of the dimensions that the configuration's layout has."""
    matrices = (3,) if config.layout.has_matrix_per_group else ()
    groups = (3,) if config.layout.is_grouped else ()
    bias, weights = torch.empty(*groups, 128).bfloat16(), torch.empty(*matrices, 64)
    other = torch.empty(*matrices, 64, 128).half()
    if config.narrowing == 1:
        made = {
            "plain": epilogue.Epilogue(),
            "chain": epilogue.bias_silu(bias) | epilogue.row_weights(weights),
            "residual": epilogue.residual(other) | epilogue.silu(),
        }
    else:
        made = {
            "plain": epilogue.swiglu(),
            "chain": epilogue.bias(bias) | epilogue.swiglu(7.0) | epilogue.row_weights(weights),
            "residual": epilogue.alpha(torch.empty(1)) | epilogue.residual(other) | own(1.702),
        }
    if config.is_quantized:
        made = {name: each | epilogue.quantize_1x128() for name, each in made.items()}
    return made


def program(config: KernelConfig, made: epilogue.Epilogue) -> runtime.Program:
    applied = made.applied
    return epilogued.program(config, applied, list(applied.operands))


def compiled(config: KernelConfig, made: epilogue.Epilogue) -> KernelStats:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return runtime.examine(program(config, made))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        all_of = metafunc.config.getoption("exhaustive")
        # What is not quantised is stored as all else is. Of what is, these two are where spills were found.
        names = ("plain", "chain", "residual") if all_of else ("chain", "residual")
        every = [
            (config, name)
            for config in (ALL if all_of else dict.fromkeys((*KINDS, *FEW)))
            for name in (names if config.is_quantized else ("plain",))
        ]
        usual = [(config, "chain" if config.is_quantized else "plain") for config in FEW]
        ids = [f"{config.name}-{name}" for config, name in every]
        metafunc.parametrize(("config", "name"), cases(every, usual), ids=ids)


def test_an_epilogue_spills_nothing(config: KernelConfig, name: str) -> None:
    stats = compiled(config, epilogues(config)[name])
    assert (stats.stack_bytes, stats.local_loads, stats.local_stores) == (0, 0, 0)


def pick(**wanted: Any) -> KernelConfig:
    """The first configuration with these properties."""
    return next(each for each in ALL if all(getattr(each, name) == of for name, of in wanted.items()))


WIDE = {"block_m": 128, "block_n": 256, "tma_scales": False}


@pytest.mark.parametrize(
    ("layout", "turn"), cases(product(LAYOUTS, (8, 128)), usual=[("dense", 8), ("masked", 128)])
)
def test_values_are_made_and_quantised_once(layout: str, turn: int) -> None:
    """In one place, wherever they then go: not once for whole tiles and once for rows."""
    config = next(each for each in ALL if each.layout.name == layout and each.block_n == 256)
    stats = compiled(config, epilogue.swiglu(turn=turn) | epilogue.quantize_1x128())
    assert (stats.stack_bytes, stats.local_loads, stats.local_stores) == (0, 0, 0)
    outputs = config.fragments * config.fragment_n // 2 // config.narrowing  # of a thread
    assert stats.count("MUFU.EX2") == outputs
    assert stats.count("FMNMX.NAN") == outputs + 2 * 3  # of two rows, each in four parts
    assert stats.count("F2FP.SATFINITE.E4M3") == outputs // 2
    assert stats.count("STS.U16") == outputs // 2
    assert stats.count("UTMASTG") == 1
    wide_stores = [name for name in stats.opcodes if name.startswith("STG") and "128" in name]
    assert sum(stats.opcodes[name] for name in wide_stores) == (0 if config.layout is DENSE else 4)


@pytest.mark.parametrize("splits", cases([2, 4], usual=[4]))
def test_ctas_that_share_k_blocks_tell_each_other_the_largest_of_rows_once(splits: int) -> None:
    config = pick(out_dtype="float8_e4m3fn", splits=splits)
    stats = compiled(config, epilogue.silu() | epilogue.quantize_1x128())
    outputs = 64 // splits  # of a thread
    assert stats.count("MUFU.TANH") == outputs
    assert stats.count("F2FP.SATFINITE.E4M3") == outputs // 2
    # Sums of others' columns, four at a time, and the largest of two rows.
    assert stats.count("ST.ASYNC", "STAS") == splits * (128 // splits // 8 + 2)


@pytest.mark.parametrize(
    ("layout", "block_n"),
    cases(product(LAYOUTS, (64, 128)), usual=[("dense", 128), ("offsets", 64)]),
)
def test_ctas_side_by_side_tell_each_other_the_largest_of_rows_once(block_n: int, layout: str) -> None:
    config = next(
        each
        for each in ALL
        if each.layout.name == layout and each.block_n == block_n and each.narrowing == 2
        if each.scale_ctas > 1 and not each.dynamic_persistence
    )
    stats = compiled(config, epilogue.swiglu() | epilogue.quantize_1x128())
    outputs = block_n // 4  # of a thread
    assert stats.count("MUFU.EX2") == outputs
    assert stats.count("F2FP.SATFINITE.E4M3") == stats.count("STS.U16") == outputs // 2
    assert stats.count("UTMASTG") == 1
    assert stats.count("ST.ASYNC", "STAS") == 2 * config.scale_ctas


def test_what_is_quantised_is_not_filled() -> None:
    """Not even by mistake: zeros without scales are none. So such a kernel has nothing that fills."""
    for config in KINDS:
        kernel = program(config, epilogues(config)["plain"]).kernel
        assert kernel.can_fill == (config.layout.is_grouped and not config.is_quantized)


QUANTIZED = [
    pick(out_dtype="float8_e4m3fn", **wanted)
    for wanted in (
        {"splits": 4},
        {"block_n": 64, "narrowing": 2},
        WIDE,
        {"block_m": 256},
        {"splits": 2},
        {"block_m": 128, "block_n": 128, "narrowing": 2},
    )
]


@pytest.mark.parametrize("config", cases(QUANTIZED, usual=QUANTIZED[:2]), ids=lambda config: config.name)
def test_shared_memory_is_what_the_plan_says(config: KernelConfig) -> None:
    made = program(config, epilogues(config)["plain"])
    runtime.cubin(made)
    assert config.smem_bytes == STATIC_SMEM + made.kernel.Storage.size_in_bytes()


class Places:
    """Of what threads move to a buffer of so many columns, and from it, as layouts say it."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.store = ByteRowStore(epi_n=columns, stages=1, warpgroups=1, dtype=cutlass.Float8E4M3FN)
        self.registers: dict[int, list[tuple[int, int]]] = {}
        self.moved: dict[int, list[tuple[int, int]]] = {}
        self.pieces: dict[int, list[tuple[int, int]]] = {}

    @cute.jit
    def __call__(self):
        whole = cute.make_identity_tensor((64, self.columns))
        mma = fragment_mma(self.columns)
        for thread in cutlass.range_constexpr(128):
            registers = mma.get_slice(thread).partition_C(whole)
            moved = self.store.to_buffer.get_slice(thread).partition_D(whole)
            pieces = self.store.from_buffer.get_slice(thread).partition_S(whole)
            elements = range(self.columns // 2)
            self.registers[thread] = [registers[i] for i in elements]
            self.moved[thread] = [moved[i] for i in elements]
            self.pieces[thread] = [pieces[i] for i in elements]


@pytest.mark.parametrize("columns", cases([128, 64, 32], usual=[32]))
def test_threads_move_what_they_have(columns: int) -> None:
    """Registers are of the rows and columns that values take them for, and go to their place in a buffer."""
    places, per_row = Places(columns), columns // 16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cute.compile(places, options="--gpu-arch sm_90a")
    for thread in range(128):
        place = Place(0, 0, 64, 0, 0, thread)  # type: ignore[arg-type]
        own = [(place.row_of(i), place.column_of(i)) for i in range(columns // 2)]
        assert places.registers[thread] == places.moved[thread] == own
        row, column = thread // per_row, thread % per_row * 16
        assert places.pieces[thread] == [
            (row + 128 // per_row * i, column + j) for i in range(per_row // 2) for j in range(16)
        ]
