"""Under settings: right on few multiprocessors, and the same bits of a row whatever it is multiplied with.

With dependent launch the same bits as without, although the kernels before have hardly begun.
"""

from collections.abc import Sequence
from itertools import pairwise

import groups
import pytest
import torch
from cuda.bindings import driver
from late import copy_late
from tensors import DTYPES, bits, problem_here

import cute_gemm
from cute_gemm.plan.layouts import MASKED, Layout
from cute_gemm.runtime import launcher, selection
from cute_gemm.testing import assert_correct, make_inputs, poisoned

ROWS = 1, 2, 7, 64, 65, 129, 4096
TIMES = 20
PRODUCTS = {"dense": (600, 584, 1040), "shared k": (64, 2112, 7168)}
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)


@every_dtype
@pytest.mark.parametrize("num_sms", [1, 7, 100])
@pytest.mark.parametrize("shape", [(1, 2112, 7168), (129, 264, 1040), (1000, 4096, 2048)])
def test_products_on_few_multiprocessors(
    shape: tuple[int, int, int], num_sms: int, dtype: torch.dtype
) -> None:
    (a, sa), (b, sb) = make_inputs(*shape, device="cuda")
    out, check = poisoned(*shape[:2], dtype, "cuda")
    launcher.forget()
    with cute_gemm.config(num_sms=num_sms):
        cute_gemm.fp8_gemm_nt((a, sa), (b, sb), out)
    assert {launch.num_sms for launch in launcher._launches.values()} == {num_sms}
    groups.wait()
    check()
    assert_correct(out, a, sa, b, sb)


@pytest.mark.parametrize("num_sms", [1, 7, 100])
@groups.every_layout
def test_groups_on_few_multiprocessors(layout: Layout, num_sms: int) -> None:
    problem = groups.Problem.make([0, 1, 129, 0, 500, 64], 264, 1040)
    inputs = problem.arranged(layout)
    with cute_gemm.config(num_sms=num_sms):
        problem.assert_equals(groups.run(layout, inputs), inputs)


def test_one_multiprocessor_is_slower_than_all() -> None:
    """That the limit reaches the device; 132 to 1, so the margin is wide."""
    lhs, rhs = make_inputs(4096, 2112, 2048, device="cuda")

    def milliseconds() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cute_gemm.fp8_gemm_nt(lhs, rhs)
        start.record()
        cute_gemm.fp8_gemm_nt(lhs, rhs)
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    with cute_gemm.config(num_sms=1):
        alone = milliseconds()
    assert alone > 10 * milliseconds()


@every_dtype
@pytest.mark.parametrize(("n", "k"), [(576, 7168), (2112, 7168), (264, 1040), (7168, 2048)])
def test_a_row_does_not_depend_on_how_many_there_are(n: int, k: int, dtype: torch.dtype) -> None:
    (a, sa), rhs = make_inputs(max(ROWS), n, k, device="cuda")
    with cute_gemm.config(batch_invariant=True):
        results = [cute_gemm.fp8_gemm_nt((a[:m], sa[:m]), rhs, out_dtype=dtype) for m in ROWS]
    for m, out in zip(ROWS, results, strict=True):
        assert torch.equal(bits(out), bits(results[-1][:m])), f"M = {m} differs from M = {max(ROWS)}"


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    (a, sa), rhs = make_inputs(max(ROWS), 2112, 7168, device="cuda")
    others = make_inputs(max(ROWS), 2112, 7168, kind="outliers", seed=1, device="cuda")[0]
    with cute_gemm.config(batch_invariant=True):
        for m in ROWS[1:]:
            out = cute_gemm.fp8_gemm_nt((a[:m], sa[:m]), rhs)
            place = m // 2
            x, s = others[0][:m].clone(), others[1][:m].clone()
            bits(x)[place], s[place] = bits(a)[place], sa[place]
            among_others = cute_gemm.fp8_gemm_nt((x, s), rhs)
            assert torch.equal(bits(out[place]), bits(among_others[place])), f"M = {m}"
            assert not torch.equal(bits(out), bits(among_others))


@groups.every_layout
def test_a_row_does_not_depend_on_the_size_of_its_group(layout: Layout) -> None:
    """The same rows of standard normal numbers, of which another order of sums would show."""
    (a, sa), (b, sb) = make_inputs(max(ROWS), 2112, 7168, device="cuda")
    whole = groups.Problem((len(a),), a, sa, b[None], sb[None], a.new_empty(0))
    with cute_gemm.config(batch_invariant=True):
        expected = cute_gemm.fp8_gemm_nt((a, sa), (b, sb))
        for m in ROWS:
            part = groups.Problem((m,), a[:m], sa[:m], whole.b, whole.sb, whole.truth)
            inputs = part.arranged(layout)
            out = groups.run(layout, inputs, expected_rows=m)
            rows = out[inputs.row_groups >= 0]
            assert torch.equal(bits(rows), bits(expected[:m])), f"a group of {m}"


# Dependent launch


def draw(kind: str, seed: int) -> tuple[torch.Tensor, ...]:
    """Operands of a product, and the sizes of its groups, if any, which change from seed to seed."""
    if kind == "masked":
        sizes = [(0, 129, 7, 64)[(seed + group) % 4] for group in range(4)]
        inputs = groups.Problem.make(sizes, 264, 1040, seed).arranged(MASKED, rows=130)
        return *inputs.lhs, *inputs.rhs, inputs.index
    lhs, rhs = make_inputs(*PRODUCTS[kind], seed=seed, device="cuda")
    return *lhs, *rhs


def multiply(operands: Sequence[torch.Tensor], out: torch.Tensor) -> None:
    a, sa, b, sb, *sizes = operands
    if sizes:
        cute_gemm.m_grouped_fp8_gemm_nt_masked((a, sa), (b, sb), *sizes, 64, out)
    else:
        cute_gemm.fp8_gemm_nt((a, sa), (b, sb), out)


def packed(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """One after the other, each from a multiple of 16 bytes on, as int32."""
    parts = [bits(x).flatten().view(torch.uint8) for x in tensors]
    padded = [torch.nn.functional.pad(part, (0, -len(part) % 16)) for part in parts]
    return torch.cat(padded).view(torch.int32)


def unpacked(memory: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Views of ``memory``, which has what ``packed(like)`` has."""
    found, place = [], 0
    for x in like:
        size = x.numel() * x.element_size()
        found.append(memory.view(torch.uint8)[place : place + size].view(x.dtype).view(x.shape))
        place += size + -size % 16
    return found


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("kind", [*PRODUCTS, "masked"])
def test_a_dependent_launch_waits_for_who_writes_its_operands_and_reads_its_result(
    kind: str, in_graph: bool
) -> None:
    """Both are done by one kernel before each product, 0.1 ms after it has let the product start."""
    if kind in PRODUCTS:
        config = selection.select(problem_here(*PRODUCTS[kind]))
        assert (config.splits > 1) == (kind == "shared k")
    drawn = [draw(kind, seed) for seed in range(TIMES)]
    sources = [packed(operands) for operands in drawn]
    a, _, b, *_ = drawn[0]
    out = torch.zeros(*a.shape[:-1], b.shape[-2], dtype=torch.bfloat16, device="cuda")
    words = out.view(torch.int32).flatten()
    expected = []
    for operands in drawn:
        multiply(operands, out)
        expected.append(words.clone())
    groups.wait()
    assert not any(torch.equal(x, y) for x, y in pairwise(expected))

    copy, memory, log = copy_late(), torch.zeros_like(sources[0]), words.new_zeros(TIMES, len(words))
    operands = unpacked(memory, drawn[0])
    copy(memory.clone(), memory, words, log[0])  # loaded before a capture

    def run() -> None:
        for source, line in zip(sources, log, strict=True):
            copy(source, memory, words, line)
            multiply(operands, out)

    out.zero_()  # rows of no group are never written
    with cute_gemm.config(pdl=True):
        if in_graph:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                run()
            graph.replay()
        else:
            run()
    groups.wait()
    for place, (found, wanted) in enumerate(zip([*log[1:], words], expected, strict=True)):
        assert torch.equal(found, wanted), f"product {place}"


@pytest.mark.parametrize("pdl", [False, True])
def test_kernels_of_a_graph_are_joined_as_they_were_launched(pdl: bool) -> None:
    lhs, rhs = make_inputs(129, 264, 1040, device="cuda")
    out = cute_gemm.fp8_gemm_nt(lhs, rhs)
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with cute_gemm.config(pdl=pdl), torch.cuda.graph(graph):
        for _ in range(3):
            cute_gemm.fp8_gemm_nt(lhs, rhs, out)
    # With CUDA 12 the one without a suffix tells no types.
    get_edges = getattr(driver, "cuGraphGetEdges_v2", driver.cuGraphGetEdges)
    error, _, _, edges, count = get_edges(driver.CUgraph(graph.raw_cuda_graph()), 2)
    assert (error, count) == (driver.CUresult.CUDA_SUCCESS, 2)
    types = driver.CUgraphDependencyType
    wanted = types.CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC if pdl else types.CU_GRAPH_DEPENDENCY_TYPE_DEFAULT
    assert {types(edge.type) for edge in edges} == {wanted}


@pytest.mark.parametrize("pdl", [None, True])
def test_products_are_captured_behind_copies_and_where_streams_meet(pdl: bool | None) -> None:
    """Dependent launches behind what is no kernel, and behind two nodes at once, wait for both as usual."""
    (a, sa), rhs = make_inputs(64, 2112, 7168, device="cuda")
    late = a.clone()
    expected = cute_gemm.fp8_gemm_nt((a, sa), rhs)
    outs = [torch.full_like(expected, torch.nan) for _ in range(3)]
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    words = torch.zeros(1 << 22, dtype=torch.int32, device="cuda")
    with cute_gemm.config(pdl=pdl), torch.cuda.graph(graph):
        main = torch.cuda.current_stream()
        late.copy_(a)
        cute_gemm.fp8_gemm_nt((late, sa), rhs, outs[0])
        side.wait_stream(main)
        with torch.cuda.stream(side):
            words.add_(1)
            cute_gemm.fp8_gemm_nt((late, sa), rhs, outs[1])
        outs[2].zero_()
        main.wait_stream(side)
        cute_gemm.fp8_gemm_nt((late, sa), rhs, outs[2])
    for _ in range(5):
        late.zero_()
        for out in outs:
            out.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        for out in outs:
            assert torch.equal(bits(out), bits(expected))
