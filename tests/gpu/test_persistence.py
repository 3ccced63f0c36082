"""Tiles that clusters draw: more of them than run at once, on streams and in graphs beside each other."""

import ctypes

import pytest
import torch
from cuda.bindings import driver
from groups import launch
from late import copy_at_once
from tensors import DTYPES, bits, problem_here, semaphore

import cute_gemm
from cute_gemm import fp8_gemm_nt
from cute_gemm.plan import launch_policy
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import CONTIGUOUS, MASKED
from cute_gemm.plan.limits import SEMAPHORE_WORDS
from cute_gemm.runtime import builder, selection, semaphores
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


@pytest.fixture(scope="module")
def expected(operands: tuple[Operand, Operand]) -> torch.Tensor:
    """The result by static persistence."""
    problem = problem_here(*SHAPE)
    config = selection.select(problem)
    assert launch_policy.is_drawn(problem, config)
    (a, sa), (b, sb) = operands
    out, check = poisoned(SHAPE[0], SHAPE[1], torch.bfloat16, "cuda")
    launch = selection.prepare(problem, config)
    launch.kernel(a, sa, b, sb, out, launch.num_sms, launch.flags, 0, 0)
    check()
    assert_correct(out, a, sa, b, sb)
    return out


def addresses() -> set[int]:
    """Of all semaphores that there are."""
    return {*semaphores._of_streams.values(), *semaphores._of_contexts.values()}


def test_a_semaphore_is_left_at_zero(operands: tuple[Operand, Operand], expected: torch.Tensor) -> None:
    for num_sms in (None, 130, 17, 2):
        with cute_gemm.config(num_sms=num_sms):
            for _ in range(5):
                assert torch.equal(bits(fp8_gemm_nt(*operands)), bits(expected))
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
            with torch.cuda.stream(stream), cute_gemm.config(num_sms=44):
                fp8_gemm_nt(*operands, out[i])
    torch.cuda.synchronize()
    assert (bits(outs) == bits(expected)).all()


def test_streams_of_others_have_none(operands: tuple[Operand, Operand], expected: torch.Tensor) -> None:
    error, other = driver.cuStreamCreate(0)
    assert error == driver.CUresult.CUDA_SUCCESS
    before = addresses()
    for stream in torch.cuda.ExternalStream(int(other)), torch.cuda.ExternalStream(2):
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            out = fp8_gemm_nt(*operands)
        torch.cuda.synchronize()
        assert torch.equal(bits(out), bits(expected))
    assert addresses() == before
    driver.cuStreamDestroy(other)


def test_a_replay_beside_a_call(operands: tuple[Operand, Operand], expected: torch.Tensor) -> None:
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with cute_gemm.config(num_sms=66):
        fp8_gemm_nt(*operands)
        before = addresses()
        with torch.cuda.graph(graph):
            captured = fp8_gemm_nt(*operands)
        assert addresses() == before
        for _ in range(8):
            captured.fill_(torch.nan)
            torch.cuda.synchronize()
            with torch.cuda.stream(side):
                graph.replay()
            called = fp8_gemm_nt(*operands)
            torch.cuda.synchronize()
            assert torch.equal(bits(captured), bits(expected))
            assert torch.equal(bits(called), bits(expected))


def test_dependent_launches_draw_no_tiles(operands: tuple[Operand, Operand], expected: torch.Tensor) -> None:
    outs = torch.full((20, *expected.shape), torch.nan, dtype=expected.dtype, device="cuda")
    with cute_gemm.config(pdl=True):
        for out in outs:
            fp8_gemm_nt(*operands, out)
    assert (bits(outs) == bits(expected)).all()


@pytest.mark.parametrize("draws", [False, True])
def test_none_starts_before_a_kernel_that_draws_has_ended(
    operands: tuple[Operand, Operand], expected: torch.Tensor, draws: bool
) -> None:
    """Or it might end before it, and the next kernel that draws find the semaphore in use."""
    problem = problem_here(*SHAPE)
    launch, copy = selection.prepare(problem, selection.select(problem)), copy_at_once()
    num_sms, flags, address, _ = launch.options(torch.cuda.current_device())
    assert address
    out = torch.empty_like(expected)
    words = out.view(torch.int32).flatten()
    found = torch.empty_like(words)
    early = 0
    for _ in range(4):
        out.fill_(torch.nan)
        copy(words, found)
        torch.cuda.synchronize()
        (a, sa), (b, sb) = operands
        launch.kernel(a, sa, b, sb, out, num_sms, flags, address if draws else 0, 0)
        copy(words, found)
        torch.cuda.synchronize()
        early += not torch.equal(found, expected.view(torch.int32).flatten())
    assert (early == 0) == draws


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
