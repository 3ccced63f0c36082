"""Rows of no group become zeros on request, in the launch that writes all others: every byte of a result."""

from __future__ import annotations

import random

import pytest
import torch
from groups import Problem, call, every_layout, inputs_for, launch, wait
from tensors import DTYPES, FLAGS, bits
from torch import Tensor

import cute_gemm
from cute_gemm import epilogue
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.launch_policy import LaunchFlags
from cute_gemm.plan.layouts import CONTIGUOUS, MASKED, OFFSETS, Layout
from cute_gemm.plan.limits import MAX_GROUPS
from cute_gemm.reference import dequantized_product
from cute_gemm.testing import GroupedInputs, poisoned_rows

INT32 = torch.iinfo(torch.int32)
LONG = 100_000_000  # 50 ms at 2 GHz
FILL = FLAGS | int(LaunchFlags.FILL)

every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
every_config = pytest.mark.every_config(where=lambda config: config.layout.is_grouped)


def assert_zeros(out: Tensor, is_nobodys: Tensor) -> None:
    """No bit of these rows is set."""
    wrong = bits(out)[is_nobodys].any(-1).nonzero()
    assert not len(wrong), f"{len(wrong)} of {int(is_nobodys.sum())} rows of no group, the first: {wrong[0]}"


def filled(
    layout: Layout,
    inputs: GroupedInputs,
    dtype: torch.dtype = torch.bfloat16,
    config: KernelConfig | None = None,
    num_sms: int = 132,
    **options: int,
) -> Tensor:
    """The result amid poison: all of its rows were written, and nothing around them."""
    n, every_row = inputs.rhs[0].shape[1], torch.ones_like(inputs.row_groups, dtype=torch.bool)
    out, check = poisoned_rows(every_row, n, dtype)
    if config is None:
        assert call(layout, inputs, out, fill=0, **options) is out
    else:
        launch(config, inputs_for(config, inputs), out, num_sms, FILL)
    wait()
    check()
    assert_zeros(out, inputs.row_groups < 0)
    return out


SIZES = {
    "some": [129, 0, 1, 300, 64, 7],
    "none at all": [0] * 5,
    "one of many": [0] * 200 + [3001] + [0] * 55,
    "whole blocks": [128, 256, 128],
    "a row each": [1] * 64,
    "as many groups as there may be": random.Random(0).choices([0, 1, 70], k=MAX_GROUPS),
}


@pytest.mark.parametrize("n", [8, 264, 4096])
@pytest.mark.parametrize("sizes", SIZES)
@every_layout
def test_sizes_of_groups(layout: Layout, sizes: str, n: int) -> None:
    """Columns of less than a warp's vectors, of no multiple of them, and of many."""
    if n == 4096 and len(SIZES[sizes]) > 64:
        pytest.skip("much memory for nothing else")
    problem = Problem.make(SIZES[sizes], n, 272)
    for spare in (0, 1, 40, 1000):
        rows = problem.arranged(layout).row_groups.shape[-1] + spare
        inputs = problem.arranged(layout, rows=min(rows, 400) if layout is MASKED and n == 4096 else rows)
        for dtype in DTYPES.values():
            problem.assert_equals(filled(layout, inputs, dtype), inputs)


@pytest.mark.parametrize("alignment", [2, 8, 100, 128, 1000])
def test_gaps_before_aligned_groups(alignment: int) -> None:
    problem = Problem.make([1, 0, 129, 64, 0, 128, 7], 264, 272)
    inputs = problem.arranged(OFFSETS, alignment=alignment)
    for dtype in DTYPES.values():
        problem.assert_equals(filled(OFFSETS, inputs, dtype, alignment=alignment), inputs)


@pytest.mark.parametrize("rows", [1, 3, 33])
@every_layout
def test_few_rows_are_shared_out_by_columns(layout: Layout, rows: int) -> None:
    problem = Problem.make([1], 7168, 272)
    for num_sms in (1, 7, 132):
        inputs = problem.arranged(layout, rows=rows)
        with cute_gemm.config(num_sms=num_sms):
            for dtype in DTYPES.values():
                problem.assert_equals(filled(layout, inputs, dtype), inputs)


def test_padding_may_be_any_negative_number_or_a_group_that_is_not_there() -> None:
    problem = Problem.make([129, 0, 300, 7], 264, 272)
    inputs = problem.arranged(CONTIGUOUS, rows=1200)
    whole = inputs.index.clone()
    for value in (-2, INT32.min, 4, INT32.max):
        inputs.index.copy_(whole)
        # Of numbers that are too large, whole blocks.
        padding = whole < 0 if value < 0 else torch.arange(1200, device="cuda") >= 768
        inputs.index[padding] = value
        problem.assert_equals(filled(CONTIGUOUS, inputs), inputs)


@every_layout
def test_none_leaves_them_alone(layout: Layout) -> None:
    problem = Problem.make([129, 0, 7, 300], 264, 528)
    inputs = problem.arranged(layout)
    out, check = poisoned_rows(inputs.row_groups >= 0, 264, torch.bfloat16)
    for fill in (0, None):
        if fill is None:
            bits(out)[inputs.row_groups < 0] = 0x7FE5
        call(layout, inputs, out, fill=fill)
    wait()
    check()


@every_layout
@pytest.mark.parametrize("k", [0, 272])
def test_an_allocated_result_is_filled_too(layout: Layout, k: int) -> None:
    problem = Problem.make([5, 0, 200], 264, k)
    inputs = problem.arranged(layout)
    for dtype in DTYPES.values():
        out = call(layout, inputs, out_dtype=dtype, fill=0)
        assert_zeros(out, inputs.row_groups < 0)
        problem.assert_equals(out, inputs)


def test_matrices_of_the_result_may_interleave() -> None:
    problem = Problem.make([129, 0, 7, 300], 264, 528)
    inputs = problem.arranged(MASKED)
    groups, capacity = inputs.row_groups.shape
    for dtype in DTYPES.values():
        buffer = torch.full((capacity, groups, 280), 7.0, dtype=dtype, device="cuda")
        out = buffer[..., :264].transpose(0, 1)
        call(MASKED, inputs, out, fill=0)
        wait()
        problem.assert_equals(out, inputs)
        assert_zeros(out, inputs.row_groups < 0)
        assert (buffer[..., 264:] == 7).all()


# What an index may hold by mistake

GARBAGE = (INT32.min, -(2**24), -2, -1, 0, 1, 2, 3, 4, 63, 128, 129, 5000, 2**24, INT32.max)


def every_product(inputs: GroupedInputs) -> Tensor:
    """fp64 [G, rows, N]: each row of A times each matrix of B."""
    (a, sa), (b, sb) = inputs.lhs, inputs.rhs
    a, sa = a.flatten(0, -2), sa.flatten(0, -2)
    return torch.stack([dequantized_product(a, sa, b[group], sb[group]) for group in range(len(b))])


def assert_products_or_zeros(inputs: GroupedInputs, out: Tensor) -> None:
    """Every row is a product of its row of A, or zero."""
    fits = (out.flatten(0, -2) == every_product(inputs).to(out.dtype)).any(0).all(-1)
    is_zero = ~bits(out).flatten(0, -2).any(-1)
    assert (fits | is_zero).all()


@every_config
def test_rows_that_no_tile_stores_are_zero_whatever_the_index_holds(config: KernelConfig) -> None:
    """So no row is written by both, and none by neither."""
    groups, n, layout = 5, 264, config.layout
    sizes = [140] * groups if layout is MASKED else [700] + [0] * (groups - 1)
    inputs = Problem.make(sizes, n, 272).arranged(layout, rows=max(sizes))
    draw = random.Random(config.name)
    for pool in (GARBAGE, range(-1, groups + 1), range(-9, 709)):
        inputs.index.copy_(torch.tensor(draw.choices(pool, k=len(inputs.index))))
        every_row = torch.ones_like(inputs.row_groups, dtype=torch.bool)
        out, check = poisoned_rows(every_row, n, DTYPES[config.out_dtype])
        launch(config, inputs_for(config, inputs), out, flags=FILL)
        wait()
        check()
        # Where ends of groups decrease, tiles of several groups may store parts of a row.
        if layout is not OFFSETS:
            assert_products_or_zeros(inputs, out)


@every_dtype
@pytest.mark.parametrize("alignment", [1, 128])
@pytest.mark.parametrize("seed", range(4))
def test_rows_that_several_groups_claim_are_not_filled(seed: int, alignment: int, dtype: torch.dtype) -> None:
    m, groups, n = 700, 8, 264
    inputs = Problem.make([m] + [0] * (groups - 1), n, 272).arranged(OFFSETS, rows=m)
    draw = random.Random(seed)
    ends = draw.choices(GARBAGE, k=groups) if seed % 2 else [draw.randrange(-9, m + 9) for _ in range(groups)]
    inputs.index.copy_(torch.tensor(ends))
    clamped = torch.tensor(ends).clamp(0, m)
    starts = torch.cat([torch.zeros(1, dtype=torch.long), clamped[:-1]]) + alignment - 1
    starts = starts // alignment * alignment
    rows = torch.arange(m)
    claims = ((starts[:, None] <= rows) & (rows < clamped[:, None])).cuda()
    inputs.row_groups.copy_(torch.where(claims.any(0), 0, -1))
    out = filled(OFFSETS, inputs, dtype, alignment=alignment)
    fits = out == every_product(inputs).to(dtype)  # [G, M, N]
    assert (fits & claims[..., None]).any(0)[claims.any(0)].all()


# Every kernel, and launches

FORCED = [
    ((1, 0), 8, 16),
    ((0, 129, 1, 0, 64, 300), 264, 144),
    ((7,) * 200, 264, 512),
    ((0, 0, 0), 136, 272),
    ((128, 1, 0, 0, 129, 127), 144, 784),
]


@every_config
def test_every_kernel_fills(config: KernelConfig) -> None:
    for seed, (sizes, n, k) in enumerate(FORCED):
        problem = Problem.make(sizes, n, k, seed=seed)
        for num_sms in (1, 132):
            inputs = problem.arranged(config.layout)
            out = filled(config.layout, inputs, DTYPES[config.out_dtype], config, num_sms)
            problem.assert_equals(out, inputs)


@every_layout
@every_dtype
def test_the_same_call_gives_the_same_bits(layout: Layout, dtype: torch.dtype) -> None:
    problem = Problem.make([129, 0, 300, 7, 64], 584, 1040, seed=3)
    inputs = problem.arranged(layout)
    first = filled(layout, inputs, dtype)
    # Without a pause, so that launches overlap.
    outs = first.new_full((20, *first.shape), torch.nan)
    for out in outs:
        call(layout, inputs, out, fill=0)
    wait()
    assert (bits(outs) == bits(first)).all()


@pytest.mark.parametrize("pdl", [False, True])
@every_layout
def test_graphs_replay_with_sizes_changed_in_place(layout: Layout, pdl: bool) -> None:
    """Also right behind the kernels that write sizes and poison, however early it starts."""
    sizes = [129, 0, 300, 71], [0, 0, 500, 0], [1, 2, 3, 494], [0, 128, 0, 372]
    problem = Problem.make(sizes[0], 264, 528)
    room = 500 if layout is MASKED else 1024
    held = problem.arranged(layout, rows=room)
    fresh = [problem.resized(each).arranged(layout, rows=room) for each in sizes]
    out = torch.empty((*held.row_groups.shape, 264), device="cuda").bfloat16()
    index = held.index.clone()
    with cute_gemm.config(pdl=pdl):
        call(layout, held, out, fill=0)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out.fill_(torch.nan)
            held.index.copy_(index)
            call(layout, held, out, fill=0)
    for each, now in zip(sizes, fresh, strict=True):
        for old, new in zip((*held.lhs, index), (*now.lhs, now.index), strict=True):
            bits(old).copy_(bits(new))
        graph.replay()
        wait()
        problem.resized(each).assert_equals(out, now)
        assert_zeros(out, now.row_groups < 0)


@every_layout
def test_zeros_are_written_after_what_the_stream_does_before(layout: Layout) -> None:
    problem = Problem.make([129, 0, 300, 71], 264, 528)
    inputs = problem.arranged(layout)
    out = call(layout, inputs, fill=0)
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(LONG)
        out.fill_(torch.nan)
        call(layout, inputs, out, fill=0)
        torch.cuda.current_stream().synchronize()
    problem.assert_equals(out, inputs)
    assert_zeros(out, inputs.row_groups < 0)


# Epilogues


def of_rows(inputs: GroupedInputs, n: int) -> dict[str, epilogue.Epilogue]:
    """Such as make something of a zero."""
    groups = len(inputs.rhs[0])
    bias = torch.randn(groups, n, device="cuda").bfloat16()
    weights = torch.rand(inputs.row_groups.shape, device="cuda")
    return {
        "bias": epilogue.bias_silu(bias),
        "weights": epilogue.bias(bias) | epilogue.row_weights(weights),
        "swiglu": epilogue.bias(bias) | epilogue.swiglu(),
        "accumulate": epilogue.accumulate(2.0),
    }


@pytest.mark.parametrize("name", ["bias", "weights", "swiglu", "accumulate"])
@every_layout
@every_dtype
def test_epilogues(layout: Layout, name: str, dtype: torch.dtype) -> None:
    inputs = Problem.make([129, 0, 7, 300], 272, 528).arranged(layout)
    made, columns = of_rows(inputs, 272)[name], 136 if name == "swiglu" else 272
    every_row = torch.ones_like(inputs.row_groups, dtype=torch.bool)
    out, check = poisoned_rows(every_row, columns, dtype)
    is_written = inputs.row_groups >= 0
    plain = torch.zeros(out.shape, dtype=dtype, device="cuda")
    call(layout, inputs, plain, epilogue=made)
    out[is_written] = 0
    call(layout, inputs, out, epilogue=made, fill=0)
    wait()
    check()
    assert torch.equal(bits(out[is_written]), bits(plain[is_written]))
    assert_zeros(out, ~is_written)


@every_layout
def test_what_is_quantised_is_refused(layout: Layout) -> None:
    inputs = Problem.make([129, 0, 7, 300], 256, 528).arranged(layout)
    with pytest.raises(ValueError, match=r"^fill is 0, but the epilogue quantises"):
        call(layout, inputs, epilogue=epilogue.quantize_1x128(), fill=0)
