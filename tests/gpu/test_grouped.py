"""Grouped GEMMs: right for groups of every size and with every kernel, harmless whatever the index holds.

Most operands are such that results are exact, and every comparison is of bits.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

import pytest
import torch
from cuda.bindings import driver
from groups import GROUPED, Problem, call, every_layout, inputs_for, launch, run, run_config, wait
from tensors import DTYPES, bits
from torch import Tensor

import cute_gemm
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import CONTIGUOUS, MASKED, OFFSETS, Layout
from cute_gemm.plan.limits import MAX_GROUPS
from cute_gemm.reference import dequantized_product
from cute_gemm.testing import (
    INPUT_KINDS,
    GroupedInputs,
    assert_grouped_correct,
    make_contiguous_inputs,
    make_masked_inputs,
    make_offsets_inputs,
    poisoned_rows,
)

SIZES = (0, 1, 7, 127, 128, 129, 1000)
INT32 = torch.iinfo(torch.int32)
# At 2 GHz, 50 ms: longer than anything here takes to enqueue.
LONG = 100_000_000

every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)


def mixed(groups: int) -> list[int]:
    """Sizes in no order; of several groups, the first, the last and some in a row are empty."""
    sizes = random.Random(groups).choices(SIZES, k=groups)
    if groups > 4:
        sizes[0] = sizes[groups // 2] = sizes[groups // 2 + 1] = sizes[-1] = 0
    return sizes


# Every size and shape


def assert_right_everywhere(problem: Problem) -> None:
    for layout in GROUPED:
        inputs = problem.arranged(layout)
        for dtype in DTYPES.values():
            problem.assert_equals(run(layout, inputs, dtype), inputs)


@pytest.mark.parametrize("size", [*SIZES, "mixed", "one giant"])
@pytest.mark.parametrize("groups", [1, 2, 4, 8, 32, 64, 256])
def test_sizes_of_groups(groups: int, size: int | str) -> None:
    if isinstance(size, int):
        sizes = [size] * groups
    elif size == "mixed":
        sizes = mixed(groups)
    else:
        sizes = [0] * groups
        sizes[2 * groups // 3] = 3001
    # N is no multiple of any tile's width, and the last k-block is partial.
    assert_right_everywhere(Problem.make(sizes, 264, 272))


def test_as_many_groups_as_there_may_be() -> None:
    sizes = random.Random(0).choices([0, 1, 70], k=MAX_GROUPS)
    assert_right_everywhere(Problem.make(sizes, 24, 144))


@pytest.mark.parametrize("k", [16, 128, 528, 1040])
@pytest.mark.parametrize("n", [8, 72, 576, 2112])
def test_shapes(n: int, k: int) -> None:
    assert_right_everywhere(Problem.make([129, 0, 1, 300, 64, 7], n, k))


MAKERS: dict[Layout, Callable[..., GroupedInputs]] = {
    CONTIGUOUS: make_contiguous_inputs,
    OFFSETS: make_offsets_inputs,
    MASKED: lambda sizes, *rest, **more: make_masked_inputs(sizes, 310, *rest, **more),
}


@pytest.mark.parametrize("kind", INPUT_KINDS)
@every_layout
def test_kinds_of_data(layout: Layout, kind: str) -> None:
    inputs = MAKERS[layout]([129, 0, 7, 300], 264, 1040, kind=kind, seed=1, device="cuda")
    for dtype in DTYPES.values():
        assert_grouped_correct(run(layout, inputs, dtype), inputs.lhs, inputs.rhs, inputs.row_groups)


@every_layout
def test_a_group_gets_the_bits_of_a_dense_product(layout: Layout) -> None:
    sizes = [129, 0, 7, 300]
    inputs = MAKERS[layout](sizes, 264, 1040, seed=2, device="cuda")
    (a, sa), (b, sb) = inputs.lhs, inputs.rhs
    for dtype in DTYPES.values():
        out = run(layout, inputs, dtype)
        for group, size in enumerate(sizes):
            rows = (inputs.row_groups == group).nonzero(as_tuple=True)
            own = bits(a)[rows].view(a.dtype)
            # A dense product alone may share out its k-blocks otherwise.
            with cute_gemm.config(batch_invariant=True):
                dense = cute_gemm.fp8_gemm_nt((own, sa[rows]), (b[group], sb[group]), out_dtype=dtype)
            assert dense.shape == (size, 264)
            assert torch.equal(bits(out[rows]), bits(dense))


@every_layout
@pytest.mark.parametrize("n", [0, 264])
@pytest.mark.parametrize("k", [0, 272])
def test_empty_extents(k: int, n: int, layout: Layout) -> None:
    """K = 0 writes zeros to the rows that other depths write, and to no other."""
    for sizes in ([0, 0, 0], [5, 0, 200]):
        inputs = Problem.make(sizes, n, k).arranged(layout)
        for dtype in DTYPES.values():
            out = run(layout, inputs, dtype)
            if k == 0:
                assert not out[inputs.row_groups >= 0].any()
    nothing = Problem.make([0, 0, 0], n, k).arranged(layout, rows=0)
    assert call(layout, nothing).numel() == 0


@every_layout
@every_dtype
def test_results_are_allocated_beside_the_operands(layout: Layout, dtype: torch.dtype) -> None:
    problem = Problem.make([5, 0, 200], 264, 272)
    inputs = problem.arranged(layout)
    out = call(layout, inputs, out_dtype=dtype)
    assert (out.dtype, out.device, out.is_contiguous()) == (dtype, inputs.index.device, True)
    assert out.shape == (*inputs.row_groups.shape, 264)
    problem.assert_equals(out, inputs)


# What each layout allows


@pytest.mark.parametrize("order", [(3, 0, 2, 1), (1, 2, 3, 0)])
def test_contiguous_groups_come_in_any_order(order: tuple[int, ...]) -> None:
    problem = Problem.make([129, 300, 0, 7], 264, 272)
    inputs = problem.arranged(CONTIGUOUS, order=order)
    problem.assert_equals(run(CONTIGUOUS, inputs), inputs)


@pytest.mark.parametrize("rows", [1024, 897, 640, 519])
def test_contiguous_rows_may_end_anywhere(rows: int) -> None:
    """Behind the last group: blocks of padding, a short one of it, none, and no full block of the group."""
    problem = Problem.make([129, 1, 128, 7], 264, 272)
    inputs = problem.arranged(CONTIGUOUS, rows=rows)
    problem.assert_equals(run(CONTIGUOUS, inputs), inputs)


def test_contiguous_padding_may_be_any_negative_number() -> None:
    problem = Problem.make([129, 0, 300, 7], 264, 272)
    inputs = problem.arranged(CONTIGUOUS, rows=1200)
    padding = inputs.index < 0
    for value in (-2, -1000, INT32.min):
        inputs.index[padding] = value
        problem.assert_equals(run(CONTIGUOUS, inputs), inputs)


def test_contiguous_blocks_of_a_group_may_lie_apart() -> None:
    problem = Problem.make([128] * 6, 264, 272)
    apart = torch.tensor([1, 0, 1, 2, 2, 0], dtype=torch.int32, device="cuda").repeat_interleave(128)
    inputs = problem.arranged(CONTIGUOUS, rows=768)
    inputs.index.copy_(apart)
    expected = problem_with_groups(problem, apart)
    assert torch.equal(run(CONTIGUOUS, inputs), expected.to(torch.bfloat16))


@pytest.mark.parametrize("alignment", [2, 8, 64, 100, 128, 1000])
def test_offsets_of_aligned_groups(alignment: int) -> None:
    problem = Problem.make([1, 0, 129, 64, 0, 128, 7], 264, 272)
    inputs = problem.arranged(OFFSETS, alignment=alignment)
    for dtype in DTYPES.values():
        problem.assert_equals(run(OFFSETS, inputs, dtype, alignment=alignment), inputs)


@pytest.mark.parametrize("expected_rows", [1, 64, 300, 10**9])
def test_expected_rows_change_no_result(expected_rows: int) -> None:
    problem = Problem.make([0, 1, 303, 129, 7], 264, 272)
    inputs = problem.arranged(MASKED, rows=303)
    problem.assert_equals(run(MASKED, inputs, expected_rows=expected_rows), inputs)


# Layouts of tensors: each must give the bits that contiguous tensors give


def amid_nans(s: Tensor) -> Tensor:
    """The same scales, with NaN around every matrix of them."""
    *groups, rows, columns = s.shape
    buffer = torch.full((*groups, rows + 3, columns + 5), torch.nan, device=s.device)
    buffer[..., 2:-1, 1:-4] = s
    return buffer[..., 2:-1, 1:-4]


SCALE_LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "M-major": lambda s: s.mT.contiguous().mT,
    "row-major, padded": amid_nans,
    "M-major, padded": lambda s: amid_nans(s.mT).mT,
    # Of scales with three dimensions the groups, of others the rows.
    "first dimension innermost": lambda s: s.movedim(0, -1).contiguous().movedim(-1, 0),
    "one for all": lambda s: s.flatten()[:1].expand(s.numel()).view(s.shape),
}


@pytest.mark.parametrize("scales", SCALE_LAYOUTS)
@every_layout
def test_scale_layouts(layout: Layout, scales: str) -> None:
    inputs = Problem.make([129, 0, 7, 300], 264, 1040).arranged(layout)
    change = SCALE_LAYOUTS[scales]
    (a, sa), (b, sb) = inputs.lhs, inputs.rhs
    sa = torch.ones_like(sa) if scales == "one for all" else sa
    sb = torch.ones_like(sb) if scales == "one for all" else sb
    plain = GroupedInputs((a, sa), (b, sb), inputs.index, inputs.row_groups)
    changed = GroupedInputs((a, change(sa)), (b, change(sb)), inputs.index, inputs.row_groups)
    for dtype in DTYPES.values():
        assert torch.equal(bits(run(layout, changed, dtype)), bits(run(layout, plain, dtype)))


def in_wider_memory(q: Tensor, room: tuple[int, int]) -> Tensor:
    """The same e4m3 matrices with NaN around each: `room` says how much between rows, and between groups."""
    *groups, rows, columns = q.shape
    buffer = torch.full(
        (*groups, rows + room[1], columns + room[0]), 0x7F, dtype=torch.uint8, device=q.device
    )
    view = buffer[..., room[1] // 2 : room[1] // 2 + rows, 16 : 16 + columns]
    view.copy_(bits(q))
    return view.view(q.dtype)


@pytest.mark.parametrize("room", [(16, 0), (48, 1), (4096, 6)], ids=str)
@every_layout
def test_strided_operands(layout: Layout, room: tuple[int, int]) -> None:
    problem = Problem.make([129, 0, 7, 300], 264, 528)
    inputs = problem.arranged(layout)
    (a, sa), (b, sb) = inputs.lhs, inputs.rhs
    lhs, rhs = (in_wider_memory(a, room), sa), (in_wider_memory(b, room), sb)
    strided = GroupedInputs(lhs, rhs, inputs.index, inputs.row_groups)
    for dtype in DTYPES.values():
        problem.assert_equals(run(layout, strided, dtype), inputs)


@every_layout
def test_groups_of_b_may_lie_in_rows_of_each_other(layout: Layout) -> None:
    """B [N, G, K] transposed: its rows are further apart than its groups."""
    problem = Problem.make([129, 0, 7, 300], 264, 528)
    inputs = problem.arranged(layout)
    b = bits(problem.b).movedim(0, 1).contiguous().movedim(0, 1).view(problem.b.dtype)
    between = GroupedInputs(inputs.lhs, (b, problem.sb), inputs.index, inputs.row_groups)
    problem.assert_equals(run(layout, between), inputs)


def test_masked_matrices_may_interleave() -> None:
    """A and the result as transpose(0, 1) of [capacity, G, ...]: groups are closer than rows."""
    problem = Problem.make([129, 0, 7, 300], 264, 528)
    inputs = problem.arranged(MASKED)
    a, sa = inputs.lhs
    a = bits(a).transpose(0, 1).contiguous().transpose(0, 1).view(a.dtype)
    interleaved = GroupedInputs((a, sa), inputs.rhs, inputs.index, inputs.row_groups)
    groups, capacity = inputs.row_groups.shape
    for dtype in DTYPES.values():
        out = torch.full((capacity, groups, 264), 7.0, dtype=dtype, device="cuda").transpose(0, 1)
        call(MASKED, interleaved, out)
        wait()
        problem.assert_equals(out, inputs)
        assert (out[inputs.row_groups < 0] == 7).all()


# What an index may hold by mistake


def every_product(inputs: GroupedInputs, groups: int) -> Tensor:
    """fp64 [G, M, N]: each row of A times each matrix of B."""
    (a, sa), (b, sb) = inputs.lhs, inputs.rhs
    return torch.stack([dequantized_product(a, sa, b[group], sb[group]) for group in range(groups)])


def problem_with_groups(problem: Problem, row_groups: Tensor) -> Tensor:
    """fp64 [M, N]: every row of A times the matrix of its group."""
    rows = torch.arange(len(problem.a), device="cuda")
    inputs = GroupedInputs((problem.a, problem.sa), (problem.b, problem.sb), row_groups, row_groups)
    return every_product(inputs, len(problem.b))[row_groups.long(), rows]


def assert_harmless(inputs: GroupedInputs, dtype: torch.dtype, launched: Callable[[Tensor], object]) -> None:
    """Every element of the result was left alone or is a product of its row of A, maybe by another's B.

    Whatever happened to rows of the result, nothing around them was written.
    """
    (a, sa), (b, sb) = inputs.lhs, inputs.rhs
    groups, n, _ = b.shape
    out, check = poisoned_rows(torch.ones_like(inputs.row_groups, dtype=torch.bool), n, dtype)
    before = bits(out).clone()
    launched(out)
    wait()
    untouched = (bits(out) == before).flatten(0, -2)
    flat = GroupedInputs((a.flatten(0, -2), sa.flatten(0, -2)), (b, sb), inputs.index, inputs.row_groups)
    # By tile: those of a row that several groups claim need not be of the same group.
    fits = out.flatten(0, -2) == every_product(flat, groups).to(dtype)
    assert (fits.any(0) | untouched).all()
    out.zero_()
    check()


GARBAGE = (INT32.min, -(2**24), -2, -1, 0, 1, 2, 3, 4, 63, 128, 129, 5000, 2**24, INT32.max)


@every_dtype
@pytest.mark.parametrize("seed", range(8))
def test_masked_clamps_sizes(seed: int, dtype: torch.dtype) -> None:
    capacity, groups, n = 130, 8, 264
    full = Problem.make([capacity] * groups, n, 272)
    inputs = full.arranged(MASKED, rows=capacity)
    inputs.index.copy_(torch.tensor(random.Random(seed).choices(GARBAGE, k=groups)))
    inputs.row_groups[torch.arange(capacity, device="cuda") >= inputs.index[:, None]] = -1
    # Which also tells that no other row was written.
    out = run(MASKED, inputs, dtype)
    valid = inputs.row_groups >= 0
    assert torch.equal(out[valid], full.truth.view(groups, capacity, n)[valid].to(dtype))


@every_dtype
@pytest.mark.parametrize("alignment", [1, 128])
@pytest.mark.parametrize("seed", range(8))
def test_unruly_offsets_stay_within_the_result(seed: int, alignment: int, dtype: torch.dtype) -> None:
    """A row is untouched if no group claims it; else each element is of the product of one that does."""
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

    out, check = poisoned_rows(claims.any(0), n, dtype)
    call(OFFSETS, inputs, out, alignment=alignment)
    wait()
    check()
    fits = out == every_product(inputs, groups).to(dtype)  # [G, M, N]
    assert (fits & claims[..., None]).any(0)[claims.any(0)].all()


@every_dtype
@pytest.mark.parametrize("wrong", [3, 4, 1000, INT32.max])
def test_contiguous_skips_blocks_of_groups_that_do_not_exist(wrong: int, dtype: torch.dtype) -> None:
    problem = Problem.make([129, 128, 300], 264, 272)
    inputs = problem.arranged(CONTIGUOUS, rows=1024)
    blocks = inputs.index.view(-1, 128), inputs.row_groups.view(-1, 128)
    truth = torch.full((1024, 264), torch.nan, dtype=torch.float64, device="cuda")
    truth[inputs.row_groups >= 0] = problem.truth
    # A full block within a group, and one of padding.
    for block in (3, 7):
        blocks[0][block], blocks[1][block] = wrong, -1
    out = run(CONTIGUOUS, inputs, dtype)
    valid = inputs.row_groups >= 0
    assert torch.equal(out[valid], truth[valid].to(dtype))


@every_dtype
@pytest.mark.parametrize("seed", range(8))
def test_an_unruly_group_index_stays_within_the_result(seed: int, dtype: torch.dtype) -> None:
    """Experts mixed within a block, padding before them, and numbers that are no expert's at all."""
    m, groups, n = 700, 4, 264
    inputs = Problem.make([m] + [0] * (groups - 1), n, 272).arranged(CONTIGUOUS, rows=m)
    draw = random.Random(seed)
    pool = GARBAGE if seed % 2 else (-1, 0, 1, 2, 3)
    inputs.index.copy_(torch.tensor([draw.choice(pool) for _ in range(m)]))
    assert_harmless(inputs, dtype, functools.partial(call, CONTIGUOUS, inputs))


@every_layout
def test_validate_tells_what_is_wrong(layout: Layout) -> None:
    problem = Problem.make([129, 128, 300], 264, 272)
    inputs = problem.arranged(layout, rows=1024 if layout is not MASKED else 300)
    problem.assert_equals(call(layout, inputs, validate=True), inputs)
    out = torch.full((*inputs.row_groups.shape, 264), 7.0, dtype=torch.bfloat16, device="cuda")
    inputs.index[1] = 5000
    with pytest.raises(ValueError, match="5000"):
        call(layout, inputs, out, validate=True)
    assert (out == 7).all()


# Launches

REPLAYED = ([129, 0, 300, 71], [0, 0, 500, 0], [1, 2, 3, 494], [0, 128, 0, 372])


@pytest.mark.parametrize("allocate", [False, True])
@every_layout
def test_graphs_replay_with_sizes_changed_in_place(layout: Layout, allocate: bool) -> None:
    problem = Problem.make(REPLAYED[0], 264, 528)
    room = 500 if layout is MASKED else 1024
    inputs = problem.arranged(layout, rows=room)
    call(layout, inputs)  # loads the kernel, which a capture may not
    out = None if allocate else torch.empty((*inputs.row_groups.shape, 264), device="cuda").bfloat16()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call(layout, inputs, out)
    for sizes in REPLAYED:
        resized = problem.resized(sizes)
        fresh = resized.arranged(layout, rows=room)
        for held, new in zip((*inputs.lhs, inputs.index), (*fresh.lhs, fresh.index), strict=True):
            bits(held).copy_(bits(new))
        result.fill_(7.0)
        graph.replay()
        wait()
        resized.assert_equals(result, fresh)
        assert (result[fresh.row_groups < 0] == 7).all()


@every_layout
def test_a_graph_without_k_replays_zeros(layout: Layout) -> None:
    """No kernel then: rows of groups are found and filled by torch, without asking for sizes."""
    problem = Problem.make(REPLAYED[0], 264, 16)
    room = 500 if layout is MASKED else 1024
    inputs = problem.arranged(layout, rows=room)
    (a, sa), (b, sb) = ([x[..., :0] for x in pair] for pair in (inputs.lhs, inputs.rhs))
    inputs = GroupedInputs((a, sa), (b, sb), inputs.index, inputs.row_groups)
    out = torch.empty((*inputs.row_groups.shape, 264), device="cuda").bfloat16()
    call(layout, inputs, out)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call(layout, inputs, out)
    for sizes in REPLAYED:
        fresh = problem.resized(sizes).arranged(layout, rows=room)
        inputs.index.copy_(fresh.index)
        out.fill_(7.0)
        graph.replay()
        wait()
        assert (out[fresh.row_groups < 0] == 7).all()
        assert (out[fresh.row_groups >= 0] == 0).all()


@every_layout
def test_a_call_neither_waits_nor_allocates(layout: Layout) -> None:
    problem = Problem.make([129, 0, 300, 71], 264, 528)
    inputs = problem.arranged(layout)
    out = call(layout, inputs)
    out.fill_(torch.nan)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()
    torch.cuda._sleep(LONG)
    call(layout, inputs, out)
    still_busy = not torch.cuda.current_stream().query()
    after = torch.cuda.memory_stats()
    assert still_busy, "the call waited"
    for statistic in ("allocation.all.allocated", "segment.all.allocated"):
        assert after[statistic] == before[statistic]
    problem.assert_equals(out, inputs)


@pytest.mark.parametrize("fill", [None, 0])
@pytest.mark.parametrize("scales", ["row-major", "M-major"])
@every_layout
def test_a_call_is_one_kernel(layout: Layout, scales: str, fill: int | None) -> None:
    inputs = Problem.make([129, 0, 300, 71], 264, 528).arranged(layout)
    if scales == "M-major":
        a, sa = inputs.lhs
        inputs = GroupedInputs((a, SCALE_LAYOUTS[scales](sa)), inputs.rhs, inputs.index, inputs.row_groups)
    out = call(layout, inputs)
    torch.cuda.synchronize()
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        call(layout, inputs, out, fill=fill)
        kinds = captured_nodes()
    assert kinds == [driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_KERNEL]


def captured_nodes() -> list[driver.CUgraphNodeType]:
    """The kinds of all nodes that the capture on the current stream has recorded so far."""

    def value_of(answer: tuple) -> tuple:
        error, *values = answer
        assert error == driver.CUresult.CUDA_SUCCESS
        return tuple(values)

    _, _, graph, *_ = value_of(driver.cuStreamGetCaptureInfo(torch.cuda.current_stream().cuda_stream))
    _, count = value_of(driver.cuGraphGetNodes(graph))
    nodes, _ = value_of(driver.cuGraphGetNodes(graph, count))
    return [value_of(driver.cuGraphNodeGetType(node))[0] for node in nodes]


@every_layout
def test_a_call_comes_after_what_the_stream_does_to_sizes(layout: Layout) -> None:
    """The sizes are written late, on the stream of the call."""
    problem = Problem.make([129, 0, 300, 71], 264, 528)
    inputs = problem.arranged(layout)
    call(layout, inputs)
    late = inputs.index.clone()
    inputs.index.zero_()
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(LONG)
        inputs.index.copy_(late)
        out = call(layout, inputs)
        torch.cuda.current_stream().synchronize()
    problem.assert_equals(out, inputs)


# Every kernel that may be chosen, forced upon groups it would not be chosen for

every_config = pytest.mark.every_config(where=lambda config: config.layout.is_grouped)

# Sizes, N, K. Less than a tile; more groups than CTAs; clusters that straddle groups; of k-blocks 1 to 9, all
# that may remain of either main loop.
FORCED = [
    ((1, 0), 8, 16),
    ((0, 129, 1, 0, 64, 300), 264, 144),
    ((65, 63, 0, 257, 128), 136, 272),
    ((7,) * 200, 264, 512),
    ((0, 0, 1000, 0), 520, 640),
    ((128, 1, 0, 0, 129, 127), 144, 784),
    ((300, 0, 20, 333), 584, 1040),
]


@functools.cache
def forced(layout: Layout) -> list[tuple[Problem, GroupedInputs]]:
    problems = [Problem.make(*each, seed=seed) for seed, each in enumerate(FORCED)]
    return [(problem, problem.arranged(layout)) for problem in problems]


@every_config
def test_every_kernel_is_exact(config: KernelConfig) -> None:
    for problem, inputs in forced(config.layout):
        problem.assert_equals(run_config(config, inputs), inputs)


@pytest.mark.every_config(where=lambda config: config.layout is CONTIGUOUS)
def test_every_kernel_takes_blocks_one_by_one(config: KernelConfig) -> None:
    """Groups that change with every block, padding and groups that do not exist between them."""
    nobody = INT32.max
    blocks = [0, nobody, 1, -1, 2, 2, 0, nobody, nobody, 2, -1, -1, 1, 0, 1]
    problem = Problem.make([128 * len(blocks), 0, 0], 264, 272)
    inputs = problem.arranged(CONTIGUOUS, rows=len(problem.a))
    inputs.index.copy_(torch.tensor(blocks).repeat_interleave(128))
    # Two of the blocks are not full.
    inputs.index[2 * 128 + 1 : 3 * 128] = inputs.index[5 * 128 + 65 : 6 * 128] = -1
    inputs.row_groups.copy_(torch.where(inputs.index == nobody, -1, inputs.index))
    out, valid = run_config(config, inputs), inputs.row_groups >= 0
    truth = problem_with_groups(problem, inputs.row_groups.clamp(min=0))
    assert torch.equal(out[valid], truth[valid].to(out.dtype))

    # Rows behind padding break a block, but not the other one of its cluster.
    inputs.index[4 * 128 + 50 : 4 * 128 + 100] = -1
    inputs.row_groups[4 * 128 + 50 : 5 * 128] = -1
    out, valid = run_config(config, inputs), inputs.row_groups >= 0
    assert torch.equal(out[valid], truth[valid].to(out.dtype))


@pytest.mark.every_config(where=lambda config: config.layout.is_grouped and config.cluster_m > 1)
@pytest.mark.parametrize("num_sms", [2, 132])
def test_a_cluster_comes_by_tiles_that_share_b_and_others(config: KernelConfig, num_sms: int) -> None:
    """Of 128 contiguous rows each: two groups, one, two, one, one whose lower CTA has no rows."""
    problem = Problem.make([128, 384, 1, 0, 300, 7], 520, 1040)
    inputs = problem.arranged(config.layout)
    problem.assert_equals(run_config(config, inputs, num_sms), inputs)


@every_config
def test_no_kernel_does_harm_whatever_the_index_holds(config: KernelConfig) -> None:
    groups, n = 5, 264
    sizes = [140] * groups if config.layout is MASKED else [700] + [0] * (groups - 1)
    inputs = inputs_for(config, Problem.make(sizes, n, 272).arranged(config.layout, rows=max(sizes)))
    draw = random.Random(config.name)
    for pool in (GARBAGE, range(-1, groups + 1), range(-9, 709)):
        inputs.index.copy_(torch.tensor(draw.choices(pool, k=len(inputs.index))))
        assert_harmless(inputs, DTYPES[config.out_dtype], lambda out: launch(config, inputs, out))


# Enough where only the number of CTAs changes.
@pytest.mark.every_config(where=lambda config: config.layout.is_grouped, step=5)
@pytest.mark.parametrize("num_sms", [1, 7, 130])
def test_kernels_run_on_fewer_multiprocessors(config: KernelConfig, num_sms: int) -> None:
    for problem, inputs in forced(config.layout)[1:]:
        problem.assert_equals(run_config(config, inputs, num_sms), inputs)


@functools.cache
def normal(layout: Layout) -> GroupedInputs:
    return MAKERS[layout]([129, 0, 300, 7, 64], 584, 1040, seed=3, device="cuda")


@pytest.fixture(scope="module")
def agreed() -> dict[str, Tensor]:
    """The bits that all kernels of an output type must give: those of the first one that ran."""
    return {}


@every_config
def test_all_kernels_give_the_same_bits_every_time(config: KernelConfig, agreed: dict[str, Tensor]) -> None:
    inputs = normal(config.layout)
    first = run_config(config, inputs)
    # Launched without a pause, so that runs overlap: a race shows as a difference.
    outs = first.new_full((20, *first.shape), torch.nan)
    inputs = inputs_for(config, inputs)
    for out in outs:
        launch(config, inputs, out)
    wait()
    rows = inputs.row_groups >= 0
    first, outs = bits(first[rows]), bits(outs[:, rows])
    assert (outs == first).all()
    # All sum the k-blocks in the same order.
    assert torch.equal(first, agreed.setdefault(config.out_dtype, first))


def test_the_bits_that_all_kernels_give_are_right() -> None:
    for layout in GROUPED:
        inputs = normal(layout)
        for dtype in DTYPES.values():
            assert_grouped_correct(run(layout, inputs, dtype), inputs.lhs, inputs.rhs, inputs.row_groups)


# Offsets that 32 bits of bytes, or 31 bits of elements, do not hold


@every_layout
def test_matrices_beyond_2_gib(layout: Layout) -> None:
    """The last group's B and, masked, A and result are far from the first one's."""
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB of free GPU memory")
    groups, n, k = 40, 8192, 8192
    torch.manual_seed(8)

    def random_e4m3(*shape: int) -> Tensor:
        """Every positive number there is, and zero; large matrices are drawn as bytes."""
        return torch.randint(0, 0x7F, shape, dtype=torch.uint8, device="cuda").view(torch.float8_e4m3fn)

    rhs = random_e4m3(groups, n, k), torch.rand(groups, n // 128, k // 128, device="cuda")
    sizes = torch.zeros(groups, dtype=torch.int32, device="cuda")
    sizes[0] = sizes[-1] = 200
    shape = (groups, 7000) if layout is MASKED else (456,)
    lhs = random_e4m3(*shape, k), torch.rand(*shape, k // 128, device="cuda")
    row_groups = torch.full(shape, -1, dtype=torch.int32, device="cuda")
    if layout is MASKED:
        index, last = sizes, (groups - 1, slice(0, 200))
        row_groups[0, :200] = 0
    else:
        start = 256 if layout is CONTIGUOUS else 200
        row_groups[:200], last = 0, (slice(start, start + 200),)
    row_groups[last] = groups - 1
    if layout is CONTIGUOUS:
        index = row_groups
    elif layout is OFFSETS:
        index = sizes.cumsum(0).int()
    out = torch.full((*shape, n), 7.0, dtype=torch.bfloat16, device="cuda")
    call(layout, GroupedInputs(lhs, rhs, index, row_groups), out)
    wait()
    (a, sa), (b, sb) = lhs, rhs
    expected = cute_gemm.fp8_gemm_nt((a[last].clone(), sa[last]), (b[-1], sb[-1]))
    assert expected.isfinite().all()
    assert torch.equal(bits(out[last]), bits(expected))
    is_nobodys = (row_groups < 0).flatten()
    assert (out.view(-1, n)[is_nobodys] == 7).all()
    call(layout, GroupedInputs(lhs, rhs, index, row_groups), out, fill=0)
    wait()
    assert torch.equal(bits(out[last]), bits(expected))
    assert not out.view(-1, n)[is_nobodys].any()
