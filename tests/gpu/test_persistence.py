"""Tiles that clusters draw: more of them than run at once, on streams and in graphs beside each other."""

import ctypes
import operator

import pytest
import torch
from cuda.bindings import driver
from groups import launch
from late import copy_at_once
from tensors import DTYPES, bits, problem_here, semaphore

import cute_gemm
from cute_gemm.plan import cost_model, launch_policy
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import CONTIGUOUS, MASKED
from cute_gemm.plan.limits import SEMAPHORE_WORDS
from cute_gemm.runtime import builder, programs, selection, semaphores
from cute_gemm.testing import (
    GroupedInputs,
    assert_correct,
    make_contiguous_inputs,
    make_inputs,
    make_masked_inputs,
    poisoned,
)

# 176 tiles of 256 x 192 for 66 clusters, or about as many of others.
SHAPE = 4096, 2112, 2048
Operand = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def operands() -> tuple[Operand, Operand]:
    return make_inputs(*SHAPE, device="cuda")


def config_that_draws() -> KernelConfig:
    """The best that draws its tiles on all multiprocessors; it has more than run at once on fewer, too."""
    problem = problem_here(*SHAPE)
    ranked = (choice.config for choice in cost_model.rank(problem))
    return next(config for config in ranked if launch_policy.is_drawn(problem, config))


def draw(operands: tuple[Operand, Operand], out: torch.Tensor | None = None, **more: int) -> torch.Tensor:
    """The product by a kernel that draws its tiles where the launch has a semaphore."""
    return programs.launch(config_that_draws(), *operands, out=out, **more)


@pytest.fixture(scope="module")
def expected(operands: tuple[Operand, Operand]) -> torch.Tensor:
    """The result by static persistence."""
    launch = selection.prepare(problem_here(*SHAPE), config_that_draws())
    (a, sa), (b, sb) = operands
    out, check = poisoned(SHAPE[0], SHAPE[1], torch.bfloat16, "cuda")
    launch.kernel(a, sa, b, sb, out, launch.num_sms, launch.flags, 0, 0)
    check()
    assert_correct(out, a, sa, b, sb)
    # From here on the kernel may be captured, and launches that are have semaphores.
    assert torch.equal(bits(draw(operands)), bits(out))
    assert left_for_captures()
    return out


def addresses() -> set[int]:
    """Of all semaphores that there are."""
    return {*semaphores._of_streams.values(), *semaphores._of_contexts.values()}


def test_a_semaphore_is_left_at_zero(operands: tuple[Operand, Operand], expected: torch.Tensor) -> None:
    for num_sms in (132, 130, 17, 2):
        for _ in range(5):
            assert torch.equal(bits(draw(operands, num_sms=num_sms)), bits(expected))
    torch.cuda.synchronize()
    words = (ctypes.c_int32 * SEMAPHORE_WORDS)()
    assert addresses()
    for address in addresses():
        ctypes.memset(words, -1, ctypes.sizeof(words))
        assert driver.cuMemcpyDtoH(words, address, ctypes.sizeof(words))[0] == driver.CUresult.CUDA_SUCCESS
        assert list(words) == [0] * SEMAPHORE_WORDS


def test_streams_have_semaphores_of_their_own(
    operands: tuple[Operand, Operand], expected: torch.Tensor
) -> None:
    streams = [torch.cuda.Stream() for _ in range(3)]
    outs = torch.full((3, 8, *expected.shape), torch.nan, dtype=expected.dtype, device="cuda")
    torch.cuda.synchronize()
    for i in range(8):
        for stream, out in zip(streams, outs, strict=True):
            # A third of the multiprocessors each, so that kernels do run side by side.
            with torch.cuda.stream(stream):
                draw(operands, out[i], num_sms=44)
    torch.cuda.synchronize()
    assert (bits(outs) == bits(expected)).all()


def test_streams_of_others_have_none(operands: tuple[Operand, Operand], expected: torch.Tensor) -> None:
    error, other = driver.cuStreamCreate(0)
    assert error == driver.CUresult.CUDA_SUCCESS
    before = addresses()
    for stream in torch.cuda.ExternalStream(int(other)), torch.cuda.ExternalStream(2):
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            out = draw(operands)
        torch.cuda.synchronize()
        assert torch.equal(bits(out), bits(expected))
    assert addresses() == before
    driver.cuStreamDestroy(other)


def left_for_captures() -> int:
    """Semaphores that launches may still be captured with."""
    return operator.length_hint(semaphores._of_captures[torch.cuda.current_device()])


@pytest.mark.parametrize("pdl", [False, True])
def test_replays_beside_calls_and_each_other(
    operands: tuple[Operand, Operand], expected: torch.Tensor, pdl: bool
) -> None:
    """Each captured launch draws from a semaphore of its own."""
    graphs, sides = [torch.cuda.CUDAGraph() for _ in range(2)], [torch.cuda.Stream() for _ in range(2)]
    outs = torch.full((2, 3, *expected.shape), torch.nan, dtype=expected.dtype, device="cuda")
    with cute_gemm.config(num_sms=44, pdl=pdl):
        draw(operands)
        outside, left = addresses(), left_for_captures()
        for graph, of_graph in zip(graphs, outs, strict=True):
            with torch.cuda.graph(graph):
                for out in of_graph:
                    draw(operands, out)
        assert addresses() == outside
        assert left_for_captures() == left - 6
        for _ in range(8):
            outs.fill_(torch.nan)
            torch.cuda.synchronize()
            for graph, side in zip(graphs, sides, strict=True):
                with torch.cuda.stream(side):
                    graph.replay()
                    graph.replay()
            called = draw(operands)
            torch.cuda.synchronize()
            assert (bits(outs) == bits(expected)).all()
            assert torch.equal(bits(called), bits(expected))


def test_dependent_launches_draw(operands: tuple[Operand, Operand], expected: torch.Tensor) -> None:
    outs = torch.full((20, *expected.shape), torch.nan, dtype=expected.dtype, device="cuda")
    with cute_gemm.config(pdl=True):
        for out in outs:
            draw(operands, out)
    assert (bits(outs) == bits(expected)).all()


@pytest.mark.parametrize("in_graph", [False, True])
def test_kernels_that_wait_for_nothing_between_those_that_draw(
    operands: tuple[Operand, Operand], expected: torch.Tensor, in_graph: bool
) -> None:
    """Each may start, and end, while the kernel before it is at its last tiles."""
    copy, words = copy_at_once(), torch.arange(1 << 16, dtype=torch.int32, device="cuda")
    copied = torch.zeros_like(words)
    outs = torch.full((12, *expected.shape), torch.nan, dtype=expected.dtype, device="cuda")

    def run() -> None:
        for out in outs:
            copy(words, copied)
            draw(operands, out)
            copy(words, copied)

    copy(words, copied)
    with cute_gemm.config(pdl=True):
        if in_graph:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                run()
            graph.replay()
        else:
            run()
    torch.cuda.synchronize()
    assert (bits(outs) == bits(expected)).all()
    assert torch.equal(copied, words)


def test_none_starts_before_the_last_tile_is_drawn(
    operands: tuple[Operand, Operand], expected: torch.Tensor
) -> None:
    """Or it might end early, and the next kernel that draws find the semaphore in use."""
    problem = problem_here(*SHAPE)
    launch, copy = selection.prepare(problem, config_that_draws()), copy_at_once()
    (a, sa), (b, sb) = operands
    found = torch.zeros_like(semaphore())
    copy(semaphore(), found)
    for _ in range(20):
        out = torch.full_like(expected, torch.nan)
        found.fill_(-1)
        torch.cuda.synchronize()
        address = semaphore().data_ptr()
        launch.kernel(a, sa, b, sb, out, launch.num_sms, launch.flags, address, 0)
        copy(semaphore(), found)
        torch.cuda.synchronize()
        assert not found.any()
        assert torch.equal(bits(out), bits(expected))


def test_dependents_of_static_persistence_start_early(
    operands: tuple[Operand, Operand], expected: torch.Tensor
) -> None:
    """So that kernels which are set up meanwhile gain something; what they must wait for is their affair."""
    problem = problem_here(*SHAPE)
    launch, copy = selection.prepare(problem, config_that_draws()), copy_at_once()
    (a, sa), (b, sb) = operands
    out = torch.empty_like(expected)
    words = out.view(torch.int32).flatten()
    found, early = torch.empty_like(words), 0
    copy(words, found)
    for _ in range(4):
        out.fill_(torch.nan)
        torch.cuda.synchronize()
        launch.kernel(a, sa, b, sb, out, launch.num_sms, launch.flags, 0, 0)
        copy(words, found)
        torch.cuda.synchronize()
        early += not torch.equal(found, expected.view(torch.int32).flatten())
    assert early


@pytest.mark.every_config(
    where=lambda config: config.layout is CONTIGUOUS and config.dynamic_persistence and not config.tma_scales
)
@pytest.mark.parametrize("sizes", [[0, 0], [-1, -1], [-1, 0, 300], [700, -1, 128]], ids=str)
@pytest.mark.parametrize("num_sms", [2, 5, 132])
def test_padding_comes_first_or_alone(config: KernelConfig, sizes: list[int], num_sms: int) -> None:
    """Of contiguous groups; a negative size is a block of padding."""
    inputs = make_contiguous_inputs([max(size, 0) for size in sizes] + [128], 264, 400, device="cuda")
    index = inputs.index
    blocks = [torch.full((128,), -1, dtype=torch.int32, device="cuda") for size in sizes if size < 0]
    whole = torch.cat([*blocks, index])[: len(index)].contiguous()
    index.copy_(whole)
    assert_the_same_however_tiles_are_taken(config, inputs, num_sms)


@pytest.mark.every_config(
    where=lambda config: config.layout is MASKED and config.dynamic_persistence and not config.tma_scales
)
@pytest.mark.parametrize("sizes", [[0, 0, 0], [1, 0, 0], [300, 0, 257]], ids=str)
def test_masked_groups_may_have_fewer_tiles_than_there_are_clusters(
    config: KernelConfig, sizes: list[int]
) -> None:
    inputs = make_masked_inputs(sizes, 512, 264, 400, device="cuda")
    assert_the_same_however_tiles_are_taken(config, inputs)


@pytest.mark.every_config(
    where=lambda config: config.layout is MASKED and config.dynamic_persistence and not config.tma_scales
)
def test_nothing_is_drawn_where_clusters_have_all_tiles(config: KernelConfig) -> None:
    """So what the semaphore holds does not matter, and stays."""
    inputs = make_masked_inputs([70, 0, 130], 512, 264, 400, device="cuda")
    (a, _), (b, _) = inputs.lhs, inputs.rhs
    shape = *a.shape[:-1], b.shape[1]
    out, static = (torch.full(shape, 7, dtype=DTYPES[config.out_dtype], device="cuda") for _ in range(2))
    used = semaphore() + torch.tensor([5, 11], dtype=torch.int32, device="cuda")
    before = used.clone()
    for result, address in (out, used.data_ptr()), (static, 0):
        builder.instance(config)(*inputs.lhs, *inputs.rhs, result, 132, 0, address, 0, inputs.index)
    assert torch.equal(bits(out), bits(static))
    assert torch.equal(used, before)


def assert_the_same_however_tiles_are_taken(
    config: KernelConfig, inputs: GroupedInputs, num_sms: int = 132
) -> None:
    """Rows of no group are left as they were in either way."""
    (a, _), (b, _) = inputs.lhs, inputs.rhs
    shape = *a.shape[:-1], b.shape[1]
    drawn, static = (torch.full(shape, 7, dtype=DTYPES[config.out_dtype], device="cuda") for _ in range(2))
    launch(config, inputs, drawn, num_sms)
    builder.instance(config)(*inputs.lhs, *inputs.rhs, static, num_sms, 0, 0, 0, inputs.index)
    assert torch.equal(bits(drawn), bits(static))
    assert not semaphore().any()
