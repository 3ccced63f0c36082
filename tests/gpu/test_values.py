"""What values make of sums, in every store; fragments side by side; a mainloop and a scaling of one's own.

Operands are such that sums are exact, and so are a bias and factors that are powers of two.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from parts import (
    SWIGLU_LIMIT,
    Bias,
    NoScales,
    RowFactor,
    SimpleMainloop,
    SwiGlu,
    pick,
    program,
    swiglu,
)
from tensors import DTYPES, FLAGS, bits, m_major_amid_nans
from torch import Tensor

from cute_gemm import runtime
from cute_gemm.kernels.epilogue import IDENTITY
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import CONTIGUOUS, DENSE, MASKED, OFFSETS
from cute_gemm.reference import dequantized_product
from cute_gemm.testing import (
    make_contiguous_inputs,
    make_masked_inputs,
    make_offsets_inputs,
    poisoned_rows,
    tile_errors,
)

SIDE_BY_SIDE = KernelConfig(128, 256, stages=3, n_fragments=2, epi_n=64)


class Case(NamedTuple):
    config: KernelConfig
    sizes: tuple[int, ...]  # rows of each group; dense: of the one there is
    n: int
    k: int


# Ragged tiles, groups that are empty or end within a tile, more tiles than CTAs run.
CASES = {
    "tma": Case(pick(DENSE, block_m=128, block_n=128, tma_scales=False), (300,), 272, 528),
    "tma, fp32": Case(pick(DENSE, "float32", block_m=128, block_n=192, tma_scales=False), (130,), 400, 272),
    "tma, two m-fragments": Case(pick(DENSE, block_m=256, block_n=128, tma_scales=True), (600,), 272, 528),
    "tma, 64 rows": Case(pick(DENSE, block_m=64, block_n=64, splits=1), (70,), 208, 1040),
    "tma, side by side": Case(SIDE_BY_SIDE, (300,), 656, 528),
    "tma, side by side, staged": Case(replace(SIDE_BY_SIDE, tma_scales=True), (300,), 656, 1040),
    "tma, side by side, cluster": Case(
        replace(SIDE_BY_SIDE, cluster_m=2, raster_width=8, l2_promotion=256), (600,), 656, 528
    ),
    "tma, side by side, two scales": Case(
        replace(SIDE_BY_SIDE, block_n=224, epi_n=16, out_dtype="float32"), (200,), 656, 528
    ),
    "tma, side by side, 64 rows": Case(
        KernelConfig(64, 256, stages=4, n_fragments=2, epi_stages=4), (70,), 656, 1040
    ),
    "rows": Case(pick(OFFSETS, block_m=128, block_n=192), (130, 0, 7, 256), 208, 400),
    "rows, matrices": Case(pick(MASKED, block_m=64, block_n=128), (64, 0, 70), 272, 912),
    "rows, two m-fragments": Case(pick(MASKED, block_m=256, block_n=128), (200, 0, 520), 272, 400),
    "rows, padding": Case(
        pick(CONTIGUOUS, "float32", block_m=128, block_n=128, cluster_m=2), (128, 0, 300, 7), 208, 528
    ),
    "rows, side by side": Case(replace(SIDE_BY_SIDE, layout=MASKED), (64, 0, 200), 656, 528),
    "cluster": Case(pick(DENSE, block_m=64, block_n=64, splits=2), (50,), 144, 4240),
    "cluster, three": Case(pick(DENSE, "float32", block_m=128, block_n=64, splits=3), (100,), 144, 5648),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


class Inputs(NamedTuple):
    """Operands, what says which rows are whose, and the exact sums of each row that is of a group."""

    operands: tuple[Tensor, Tensor, Tensor, Tensor]
    grouping: tuple[Tensor | int, ...]
    row_groups: Tensor
    sums: Tensor  # fp64, NaN in rows of no group


def inputs_of(case: Case) -> Inputs:
    config, sizes, n, k = case
    grouping: tuple[Tensor | int, ...] = ()
    if config.layout is DENSE:
        row_groups = torch.zeros(sizes[0], dtype=torch.int32)
        shape_a, shape_b = (sizes[0], k), (n, k)
    else:
        if config.layout is CONTIGUOUS:
            made = make_contiguous_inputs(sizes, n, k)
        elif config.layout is OFFSETS:
            made = make_offsets_inputs(sizes, n, k)
        else:
            made = make_masked_inputs(sizes, max(sizes), n, k)
        row_groups, shape_a, shape_b = made.row_groups, made.lhs[0].shape, made.rhs[0].shape
        grouping = (made.index.cuda(), 1) if config.layout is OFFSETS else (made.index.cuda(),)
    random = torch.Generator().manual_seed(k)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=random).float()

    a, b = (draw(-4, 5, *shape).to(torch.float8_e4m3fn) for shape in (shape_a, shape_b))
    sa = torch.exp2(draw(-6, -2, *shape_a[:-1], -(-k // 128)))
    sb = torch.exp2(draw(-3, 1, *shape_b[:-2], -(-n // 128), -(-k // 128)))
    a.view(torch.uint8)[row_groups < 0], sa[row_groups < 0] = 0x7F, torch.nan
    sums = torch.full((*row_groups.shape, n), torch.nan, dtype=torch.float64)
    for group in range(max(1, len(sizes))):
        rows = row_groups == group
        of_b = (b, sb) if config.layout is DENSE else (b[group], sb[group])
        if rows.any():
            sums[rows] = dequantized_product(a[rows], sa[rows], *of_b)
    operands = tuple(x.cuda() for x in (a, sa, b, sb))
    if config.tma_scales:
        operands = (operands[0], m_major_amid_nans(operands[1]), *operands[2:])
    return Inputs(operands, grouping, row_groups.cuda(), sums.cuda())


def run(case: Case, value: Any, inputs: Inputs, *tensors: Tensor) -> Tensor:
    """What the kernel writes that applies ``value``."""
    return run_program(program(case.config, value), value.out_columns(case.n), inputs, *tensors)


def run_program(made: runtime.Program, columns: int, inputs: Inputs, *tensors: Tensor) -> Tensor:
    """What a kernel writes, the same every time, and nowhere else."""
    config, kernel, found = made.config, runtime.instance(made), []
    for num_sms in (132, 132, config.cluster_size):
        out, check = poisoned_rows(inputs.row_groups >= 0, columns, DTYPES[config.out_dtype])
        kernel(*inputs.operands, out, num_sms, FLAGS, 0, 0, *inputs.grouping, *tensors)
        check()
        found.append(bits(out[inputs.row_groups >= 0]))
    assert all(torch.equal(each, found[0]) for each in found)
    return out


def assert_equal(out: Tensor, truth: Tensor, inputs: Inputs) -> None:
    rows = inputs.row_groups >= 0
    wrong = (out[rows] != truth[rows].to(out.dtype)).nonzero()
    assert not len(wrong), f"{len(wrong)} of {out[rows].shape} wrong, from {wrong[0].tolist()} on"


def rows_of(values: Tensor, inputs: Inputs) -> Tensor:
    """Of each row, what ``values`` have for its group."""
    return values[inputs.row_groups.clamp(0).long()]


@every_case
def test_sums_are_stored_as_they_are(case: Case) -> None:
    inputs = inputs_of(case)
    assert_equal(run(case, IDENTITY, inputs), inputs.sums, inputs)


@every_case
def test_bias_of_columns_and_groups(case: Case) -> None:
    inputs = inputs_of(case)
    random = torch.Generator("cuda").manual_seed(1)
    bias = torch.randint(-64, 65, (len(case.sizes), case.n), generator=random, device="cuda") / 16
    out = run(case, Bias(), inputs, bias)
    assert_equal(out, inputs.sums + rows_of(bias, inputs), inputs)


@every_case
def test_factors_of_rows_that_are_read_ahead(case: Case) -> None:
    inputs = inputs_of(case)
    random = torch.Generator("cuda").manual_seed(2)
    rows = inputs.row_groups.reshape(-1, inputs.row_groups.shape[-1]).shape
    factors = torch.exp2(torch.randint(-3, 4, rows, generator=random, device="cuda").float())
    out = run(case, RowFactor(case.config.m_fragments), inputs, factors)
    assert_equal(out, inputs.sums * factors.view(inputs.row_groups.shape)[..., None], inputs)


@every_case
def test_swiglu_of_interleaved_columns(case: Case) -> None:
    inputs = inputs_of(case)
    config = case.config
    if config.splits == 1:
        epi_n = config.epi_n // 2 if config.epi_n > 16 else 8
        config = replace(config, epi_n=epi_n, epi_stages=max(2, config.epi_stages))
    else:
        # A CTA adds up whole turns of gate and up, and each has some.
        columns = 16 * config.splits
        config = replace(config, block_n=columns, epi_n=columns)
    out = run(case._replace(config=config), SwiGlu(), inputs)
    rows = inputs.row_groups >= 0
    assert tile_errors(out[rows], swiglu(inputs.sums[rows])).max() < SWIGLU_LIMIT


@pytest.mark.parametrize("name", ["tma", "rows", "rows, matrices", "cluster, three"])
def test_launched_by_its_author(name: str) -> None:
    """Under the rules of the layout's operation, with a tensor of the value's own."""
    case = CASES[name]
    inputs = inputs_of(case)
    a, sa, b, sb = inputs.operands
    rest = inputs.grouping if case.config.layout is not MASKED else (*inputs.grouping, max(case.sizes))
    random = torch.Generator("cuda").manual_seed(1)
    bias = torch.randint(-64, 65, (len(case.sizes), case.n), generator=random, device="cuda") / 16
    made = program(case.config, Bias())
    out = runtime.launch(made, (a, sa), (b, sb), *rest, tensors=(bias,))
    assert_equal(out, inputs.sums + rows_of(bias, inputs), inputs)
    assert_equal(runtime.launch(case.config, (a, sa), (b, sb), *rest), inputs.sums, inputs)
    with pytest.raises((TypeError, ValueError)):
        runtime.launch(made, (a, sa), (b, sb), *rest, tensors=(bias.double(),))


OF_ONE_KIND = "tma", "tma, side by side", "rows, matrices", "cluster, three"


@pytest.mark.parametrize("name", OF_ONE_KIND)
def test_a_mainloop_of_ones_own(name: str) -> None:
    case = CASES[name]
    # It keeps all partial accumulators of a tile at once.
    if case.config.n_fragments > 1:
        case = case._replace(config=replace(case.config, block_n=128))
    inputs = inputs_of(case)
    made = runtime.build(case.config, mainloop=SimpleMainloop(group=4))
    assert_equal(run_program(made, case.n, inputs), inputs.sums, inputs)


@pytest.mark.parametrize("name", ["tma", "tma, 64 rows", "cluster, three"])
def test_a_scaling_of_ones_own(name: str) -> None:
    """It scales nothing, and reads no scales."""
    case = CASES[name]._replace(config=replace(CASES[name].config, prefetch_scales=False))
    inputs = inputs_of(case)
    a, sa, b, sb = inputs.operands
    sums = dequantized_product(a, torch.ones_like(sa), b, torch.ones_like(sb))
    for scales in (sa, sb):
        scales.fill_(torch.nan)
    out = run_program(runtime.build(case.config, scaling=NoScales()), case.n, inputs)
    assert_equal(out, sums, inputs)
