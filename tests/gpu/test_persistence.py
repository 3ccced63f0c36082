"""Tiles that clusters draw: more of them than run at once, on streams and in graphs beside each other."""

import ctypes

import pytest
import torch
from cuda.bindings import driver
from groups import launch
from late import copy_at_once
from tensors import bits, counter

import cute_gemm
from cute_gemm import fp8_gemm_nt
from cute_gemm.plan import candidates, launch_policy
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.runtime import dispatch
from cute_gemm.runtime import semaphores as counters
from cute_gemm.testing import (
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
    """The result of even turns."""
    problem = GemmProblem(*SHAPE, num_sms=torch.cuda.get_device_properties().multi_processor_count)
    config = dispatch.select(problem)
    assert launch_policy.is_drawn(problem, config)
    (a, sa), (b, sb) = operands
    out, check = poisoned(SHAPE[0], SHAPE[1], torch.bfloat16, "cuda")
    num_sms, hints, *_ = dispatch.launch_options(problem, config, 0)
    dispatch.instance(config)(a, sa, b, sb, out, num_sms, hints, 0, 0)
    check()
    assert_correct(out, a, sa, b, sb)
    return out


def test_a_counter_is_left_at_zero(operands: tuple[Operand, Operand], expected: torch.Tensor) -> None:
    for num_sms in (None, 130, 17, 2):
        with cute_gemm.config(num_sms=num_sms):
            for _ in range(5):
                assert torch.equal(bits(fp8_gemm_nt(*operands)), bits(expected))
    torch.cuda.synchronize()
    words = (ctypes.c_int32 * counters.WORDS)()
    assert counters._counters
    for address in counters._counters.values():
        ctypes.memset(words, -1, ctypes.sizeof(words))
        assert driver.cuMemcpyDtoH(words, address, ctypes.sizeof(words))[0] == driver.CUresult.CUDA_SUCCESS
        assert list(words) == [0] * counters.WORDS


def test_streams_have_counters_of_their_own(
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
    before = set(counters._counters)
    for stream in torch.cuda.ExternalStream(int(other)), torch.cuda.ExternalStream(2):
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            out = fp8_gemm_nt(*operands)
        torch.cuda.synchronize()
        assert torch.equal(bits(out), bits(expected))
    assert set(counters._counters) == before
    driver.cuStreamDestroy(other)


def test_a_replay_beside_a_call(operands: tuple[Operand, Operand], expected: torch.Tensor) -> None:
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with cute_gemm.config(num_sms=66):
        fp8_gemm_nt(*operands)
        before = dict(counters._counters)
        with torch.cuda.graph(graph):
            captured = fp8_gemm_nt(*operands)
        assert counters._counters == before
        for _ in range(8):
            captured.fill_(torch.nan)
            torch.cuda.synchronize()
            with torch.cuda.stream(side):
                graph.replay()
            called = fp8_gemm_nt(*operands)
            torch.cuda.synchronize()
            assert torch.equal(bits(captured), bits(expected))
            assert torch.equal(bits(called), bits(expected))


def test_dependent_launches_take_even_turns(
    operands: tuple[Operand, Operand], expected: torch.Tensor
) -> None:
    outs = torch.full((20, *expected.shape), torch.nan, dtype=expected.dtype, device="cuda")
    with cute_gemm.config(pdl=True):
        for out in outs:
            fp8_gemm_nt(*operands, out)
    assert (bits(outs) == bits(expected)).all()


@pytest.mark.parametrize("draws", [False, True])
def test_none_starts_before_a_kernel_that_draws_has_ended(
    operands: tuple[Operand, Operand], expected: torch.Tensor, draws: bool
) -> None:
    """Or it might end before it, and the next kernel that draws find the counter in use."""
    problem = GemmProblem(*SHAPE, num_sms=torch.cuda.get_device_properties().multi_processor_count)
    num_sms, hints, address, _ = dispatch.launch_options(problem, dispatch.select(problem), 0)
    launch, copy = dispatch.instance(dispatch.select(problem)), copy_at_once()
    out = torch.empty_like(expected)
    words = out.view(torch.int32).flatten()
    found = torch.empty_like(words)
    early = 0
    for _ in range(4):
        out.fill_(torch.nan)
        copy(words, found)
        torch.cuda.synchronize()
        (a, sa), (b, sb) = operands
        launch(a, sa, b, sb, out, num_sms, hints, address if draws else 0, 0)
        copy(words, found)
        torch.cuda.synchronize()
        early += not torch.equal(found, expected.view(torch.int32).flatten())
    assert (early == 0) == draws


@pytest.mark.parametrize("sizes", [[0, 0], [-1, -1], [-1, 0, 300], [700, -1, 128]])
@pytest.mark.parametrize("num_sms", [2, 5, 132])
def test_padding_comes_first_or_alone(sizes: list[int], num_sms: int) -> None:
    """Of contiguous groups; a negative size is a block of padding."""
    inputs = make_contiguous_inputs([max(size, 0) for size in sizes] + [128], 264, 400, device="cuda")
    index = inputs.index
    blocks = [torch.full((128,), -1, dtype=torch.int32, device="cuda") for size in sizes if size < 0]
    whole = torch.cat([*blocks, index])[: len(index)].contiguous()
    index.copy_(whole)
    for config in candidates.every_config():
        if config.layout == "contiguous" and config.dynamic_persistence and not config.tma_scales:
            (a, _), (b, _) = inputs.lhs, inputs.rhs
            dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[config.out_dtype]
            first, second = (
                torch.full((len(a), b.shape[1]), 7, dtype=dtype, device="cuda") for _ in range(2)
            )
            launch(config, inputs, first, num_sms)
            options = num_sms, 0, 0, 0
            dispatch.instance(config)(*inputs.lhs, *inputs.rhs, second, *options, index)
            assert torch.equal(bits(first), bits(second))


@pytest.mark.parametrize("sizes", [[0, 0, 0], [1, 0, 0], [300, 0, 257]])
def test_masked_groups_may_have_fewer_tiles_than_there_are_clusters(sizes: list[int]) -> None:
    inputs = make_masked_inputs(sizes, 512, 264, 400, device="cuda")
    for config in candidates.every_config():
        if config.layout == "masked" and config.dynamic_persistence and not config.tma_scales:
            dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[config.out_dtype]
            first, second = (torch.full((3, 512, 264), 7, dtype=dtype, device="cuda") for _ in range(2))
            launch(config, inputs, first)
            options = 132, 0, 0, 0
            dispatch.instance(config)(*inputs.lhs, *inputs.rhs, second, *options, inputs.index)
            assert torch.equal(bits(first), bits(second))
            assert not counter().any()
