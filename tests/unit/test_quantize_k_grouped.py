"""Quantising along tokens by groups: the formula in torch, and where the kernel's blocks begin."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import cutlass
import cutlass.cute as cute
import hypothesis.strategies as st
import pytest
import torch
from compiling import compiled
from cutlass import Int32
from cutlass.cute import runtime as dsl
from host_code import holds
from hypothesis import example, given, settings
from torch import Tensor
from torch import library as torch_library

from cute_gemm import (
    column_groups,
    k_grouped_fp8_gemm_nt,
    quantize_1x128,
    quantize_both_ways,
    quantize_k_grouped,
)
from cute_gemm.kernels.quantize.row_blocks import BlocksByOffsets
from cute_gemm.plan.quantizer import BothWaysQuantizer
from cute_gemm.runtime.quantizers import strides_of_scales
from cute_gemm.testing.host_programs import on_the_host

E4M3 = torch.float8_e4m3fn
POISON = 0xFF


def int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def poisoned(*shape: int) -> Tensor:
    return torch.full(shape, POISON, dtype=torch.uint8).view(E4M3)


def edges_of(sizes: list[int], first: int = 0) -> Tensor:
    edges = [16 * first]
    for size in sizes:
        edges.append(edges[-1] + 16 * size)
    return int32(*edges)


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


SIZES = st.lists(st.one_of(st.just(0), st.integers(0, 20)), min_size=1, max_size=6)


@given(
    sizes=SIZES,
    first=st.integers(0, 9),
    behind=st.integers(0, 9),
    features=st.integers(1, 140),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    power=st.booleans(),
    m_major=st.booleans(),
)
@settings(max_examples=40, deadline=None)
@example([8, 0, 9, 1], 0, 0, 130, torch.bfloat16, False, True)
@example([0, 0], 0, 0, 16, torch.bfloat16, False, False)
@example([20], 7, 3, 272, torch.float32, True, True)
def test_each_group_is_quantised_by_itself(
    sizes: list[int], first: int, behind: int, features: int, dtype: torch.dtype, power: bool, m_major: bool
) -> None:
    """To the bit what other functions make of a group's rows alone; nothing else is written."""
    edges = edges_of(sizes, first)
    m = int(edges[-1]) + 16 * behind
    x = normal(m, features, dtype=dtype)
    # What is of no group reaches nothing.
    x[: int(edges[0])] = torch.nan
    x[int(edges[-1]) :] = torch.nan
    shape = features, m // 128 + len(sizes)
    q, q_t = poisoned(m, features), poisoned(features, m)
    s, s_t = torch.full((m, -(-features // 128)), -7.0), torch.full(shape, -7.0)
    named = {"power_of_two_scales": power, "m_major_scales": m_major}
    found = quantize_both_ways(x, offsets=edges, out=q, scales_out=s, out_t=q_t, scales_out_t=s_t, **named)
    assert [id(each) for each in sum(found, ())] == [id(each) for each in (q, s, q_t, s_t)]
    made = quantize_both_ways(x, offsets=edges, **named)
    assert made[1][1].stride() == strides_of_scales(shape, m_major)

    want_q, want_s = poisoned(m, features), torch.full_like(s, -7.0)
    want_q_t, want_s_t = poisoned(features, m), torch.full_like(s_t, -7.0)
    for group, (begin, end) in enumerate(zip(edges.tolist(), edges[1:].tolist(), strict=False)):
        rows = slice(begin, end)
        if begin == end:
            continue
        for target, scales, (of_group, of_scales) in (
            (want_q[rows], want_s[rows], quantize_1x128(x[rows], power_of_two_scales=power)),
            (want_q_t[:, rows], want_s_t, quantize_1x128(x[rows].t(), power_of_two_scales=power)),
        ):
            target.view(torch.uint8).copy_(of_group.view(torch.uint8))
            start = begin // 128 + group if scales is want_s_t else 0
            scales[:, start : start + of_scales.shape[1]] = of_scales
    assert same(q, want_q)
    assert same(q_t, want_q_t)
    assert torch.equal(s, want_s)
    assert torch.equal(s_t, want_s_t)


@given(edges=st.lists(st.integers(-99, 400), min_size=2, max_size=9), m=st.integers(0, 20))
@example(edges=[-(2**31), 2**31 - 1], m=9)
@example(edges=[100, 50, 200, 0], m=9)
def test_edges_that_make_no_sense_write_nothing_beyond(edges: list[int], m: int) -> None:
    x = normal(16 * m, 24)
    (q, s), (q_t, s_t) = quantize_both_ways(x, offsets=int32(*edges))
    assert (q.shape, s.shape, q_t.shape) == ((16 * m, 24), (16 * m, 1), (24, 16 * m))
    assert s_t.shape == (24, m // 8 + len(edges) - 1)


def test_an_operand_of_tokens() -> None:
    """What comes of it is the product of tokens, up to quantising."""
    edges, tokens = edges_of([3, 0, 9, 8]), 16 * 20
    gradients, inputs = normal(tokens, 40), normal(tokens, 24)
    lhs, rhs = quantize_k_grouped(gradients, edges), quantize_k_grouped(inputs, edges)
    assert lhs[0].shape == (40, tokens)
    assert lhs[1].stride() == (1, 40)
    for one, other in zip(lhs, quantize_both_ways(gradients, offsets=edges)[1], strict=True):
        assert same(one, other) or one.dtype is torch.float32
    found = k_grouped_fp8_gemm_nt(lhs, rhs, edges)
    for group, (begin, end) in enumerate(zip(edges.tolist(), edges[1:].tolist(), strict=False)):
        wanted = gradients[begin:end].float().t() @ inputs[begin:end].float()
        assert (found[group] - wanted).norm() <= 0.05 * wanted.norm()


X, EDGES = normal(32, 48), int32(0, 16, 32)
ROOM = torch.zeros(48, 2)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: quantize_both_ways(X[None], offsets=EDGES), ValueError, r"x has shape \(1, 32, 48\); want"),
        (lambda: quantize_both_ways(X, offsets=[0, 16]), TypeError, "offsets is a builtins.list"),
        (lambda: quantize_both_ways(X, offsets=int32(0)), ValueError, "so G = 0; wanted 1 to 1022 groups"),
        (lambda: quantize_both_ways(X, offsets=EDGES.long()), TypeError, r"`offsets.to\(torch.int32\)`"),
        (lambda: quantize_k_grouped(X, EDGES[None]), ValueError, r"offsets has shape \(1, 3\); wanted"),
        (lambda: quantize_k_grouped(X.int(), EDGES), TypeError, "x has dtype torch.int32; wanted"),
        (lambda: quantize_k_grouped(X, EDGES.to("meta")), ValueError, "offsets is on device 'meta'"),
        (
            lambda: quantize_both_ways(X, offsets=EDGES, scales_out_t=torch.empty(48, 1)),
            ValueError,
            r"scales_out_t has shape \(48, 1\); wanted \(48, 2\)",
        ),
        (
            lambda: quantize_both_ways(X, offsets=ROOM.view(torch.int32).view(-1)[:3], scales_out_t=ROOM),
            ValueError,
            "scales_out_t lies in the memory of offsets",
        ),
    ],
)  # fmt: skip
def test_what_is_not_in_order_is_said(call: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_caller_is_compiled_whole(backend: str) -> None:
    torch._dynamo.reset()
    run = compiled(lambda x, edges: quantize_k_grouped(x, edges), backend, dynamic=True)
    for sizes in ([3, 0, 9], [1, 2, 3], [0, 0, 20]):
        edges = edges_of(sizes)
        x = normal(int(edges[-1]), 40)
        found, wanted = run(x, edges), quantize_k_grouped(x, edges)
        used = column_groups.blocks(edges, len(x)).is_used
        assert same(found[0], wanted[0])
        assert torch.equal(found[1][:, used], wanted[1][:, used])
    torch._dynamo.reset()


def test_torch_finds_nothing_wrong_with_the_op_that_writes() -> None:
    q, q_t = torch.zeros(32, 48).to(E4M3), torch.zeros(48, 32).to(E4M3)
    s, s_t = torch.ones(32, 1), torch.ones(48, 2)
    checks = ("test_schema", "test_faketensor")
    op = torch.ops.cute_gemm.quantize_both_ways_out.default
    named = {"offsets": int32(0, 16, 32)}
    torch_library.opcheck(op, (X, q, s, q_t, s_t), named, test_utils=checks[1:])
    torch_library.opcheck(torch.ops.cute_gemm.quantize_both_ways.default, (X,), named, test_utils=checks[1:])


# What the kernel does


CONFIG = BothWaysQuantizer("bfloat16", rows="offsets")


def results(m: int, k: int, groups: int, m_major: bool) -> tuple[Tensor, ...]:
    shapes = (m, -(-k // 128)), (k, m // 128 + groups)
    s, s_t = (torch.empty_strided(each, strides_of_scales(each, m_major)) for each in shapes)
    return torch.empty(m, k, dtype=E4M3), s, torch.empty(k, m, dtype=E4M3), s_t


@pytest.mark.parametrize("m_major", [False, True])
def test_what_is_in_order_is_launched(m_major: bool) -> None:
    m, k, groups = 160, 272, 3
    x, made = torch.empty(m, k, dtype=torch.bfloat16), results(m, k, groups, m_major)
    edges = torch.zeros(groups + 1, dtype=torch.int32)
    assert holds(CONFIG, (x, *made), (edges,))
    q, s, q_t, s_t = made
    inside = s_t.as_strided((groups + 1,), (1,)).view(torch.int32)
    refused = {
        "edges of more groups": ((x, *made), torch.zeros(groups + 2, dtype=torch.int32)),
        "no group": ((x, q, s, q_t, torch.empty(k, 1)), edges[:1]),
        "edges in what is written": ((x, *made), inside),
        "scales of even blocks": ((x, q, s, q_t, torch.empty(k, 2)), edges),
        "rows that are no multiple of 16": (
            (torch.empty(152, k, dtype=torch.bfloat16), *results(152, k, groups, m_major)),
            edges,
        ),
        "results in each other": ((x, q, s, q.view(-1).view(k, m), s_t), edges),
    }
    for what, (arguments, index) in refused.items():
        assert not holds(CONFIG, arguments, (index,)), what
    for count, is_one in ((1022, True), (1023, False)):
        of_many = x, *results(m, k, count, m_major)
        assert holds(CONFIG, of_many, (torch.zeros(count + 1, dtype=torch.int32),)) == is_one


class RowsOfBlocks:
    """Writes down where each block begins and ends."""

    @cute.jit
    def __call__(self, edges: cute.Tensor, rows: Int32, found: cute.Tensor):
        blocks = BlocksByOffsets(edges)
        for i in cutlass.range(blocks.count(rows), unroll=1):
            (first, end), _ = blocks.spans_of(i, rows)
            found[i, 0], found[i, 1] = Int32(first), Int32(end)


@functools.cache
def rows_of_blocks() -> Callable[..., None]:
    generic = cute.AddressSpace.generic
    arguments = (
        dsl.make_fake_tensor(Int32, (cute.sym_int32(),), (1,), memspace=generic, assumed_align=4),
        Int32(0),
        dsl.make_fake_tensor(Int32, (cute.sym_int32(), 2), (2, 1), memspace=generic, assumed_align=4),
    )
    with on_the_host(1):
        return cute.compile(RowsOfBlocks(), *arguments, options="--enable-tvm-ffi")


def blocks_of(edges: Tensor, m: int) -> list[tuple[int, int]]:
    found = torch.full((m // 128 + len(edges) - 1, 2), -1, dtype=torch.int32)
    rows_of_blocks()(edges, m, found)
    return [tuple(each) for each in found.tolist()]


@given(sizes=SIZES, first=st.integers(0, 9), behind=st.integers(0, 99))
@example(sizes=[1] * 1022, first=0, behind=0)
@example(sizes=[i % 3 for i in range(1022)], first=0, behind=99)
@example(sizes=[0] * 64, first=9, behind=9)
@settings(max_examples=60, deadline=None)
def test_the_kernels_blocks_are_those_of_the_formula(sizes: list[int], first: int, behind: int) -> None:
    edges = edges_of(sizes, first)
    m = int(edges[-1]) + 16 * behind
    wanted = column_groups.blocks(edges, m)
    found = blocks_of(edges, m)
    for (a, b), begin, end in zip(found, wanted.first.tolist(), wanted.end.tolist(), strict=True):
        assert (a, b) == (begin, end) if end else a >= b


@given(
    edges=st.lists(
        st.one_of(st.sampled_from([-(2**31), -1, 2**31 - 1]), st.integers(-99, 900)), min_size=2, max_size=40
    ),
    m=st.integers(1, 50).map(lambda m: 16 * m),
)
@settings(max_examples=60, deadline=None)
def test_no_block_reaches_beyond_the_matrix(edges: list[int], m: int) -> None:
    for first, end in blocks_of(int32(*edges), m):
        assert 0 <= first <= m
        assert end <= min(m, first + 128)
        assert first % 16 == end % 16 == 0


def test_blocks_of_the_largest_matrices() -> None:
    """Numbers that no block has would be rows beyond what an Int32 holds."""
    m = 2**31 - 1024
    edges = torch.zeros(1023, dtype=torch.int32)
    edges[-1] = 16
    program = rows_of_blocks()
    assert m // 128 + 1022 > 2**24
    found = torch.full((m // 128 + 1022, 2), -1, dtype=torch.int32)
    program(edges, m, found)
    used = (found[:, 1] > found[:, 0]).nonzero().flatten().tolist()
    assert used == [1021]
    assert found[1021].tolist() == [0, 16]
    assert (found[:, 0] >= 0).all()
