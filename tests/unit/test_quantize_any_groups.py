"""Quantising along tokens by groups of any size: the formula in torch, and which rows the kernel takes."""

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

from cute_gemm import column_groups, quantize_1x128, quantize_both_ways, quantize_k_grouped
from cute_gemm.kernels.quantize import turned
from cute_gemm.kernels.quantize.row_blocks import BlocksByEnds
from cute_gemm.plan.quantizer import BothWaysQuantizer
from cute_gemm.runtime.quantizers import strides_of_scales
from cute_gemm.testing.host_programs import on_the_host

E4M3 = torch.float8_e4m3fn
POISON = 0xFF
CONFIG = BothWaysQuantizer("bfloat16", rows="ends")


def int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def bits(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format).view(torch.uint8)


def results(m: int, k: int, groups: int, m_major: bool = False) -> tuple[Tensor, ...]:
    """Of poison."""
    columns = column_groups.padded_columns(m, groups)
    shapes = (m, -(-k // 128)), (k, columns // 128 + groups)
    s, s_t = (torch.empty_strided(each, strides_of_scales(each, m_major)).fill_(-7) for each in shapes)
    q, q_t = (torch.full(each, POISON, dtype=torch.uint8).view(E4M3) for each in ((m, k), (k, columns)))
    return q, s, q_t, s_t


def edges_and_ends(sizes: list[int], more: list[int]) -> tuple[Tensor, Tensor]:
    """Edges that round sizes up, and leave so many times 16 columns more."""
    edges = [0]
    for size, extra in zip(sizes, more, strict=True):
        edges.append(edges[-1] + (-(-size // 16) + extra) * 16)
    return int32(*edges), torch.tensor(sizes).cumsum(0).int()


SIZES = st.lists(st.one_of(st.just(0), st.integers(0, 40), st.integers(100, 300)), min_size=1, max_size=6)


@given(
    sizes=SIZES,
    behind=st.integers(0, 40),
    features=st.integers(1, 140),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    power=st.booleans(),
    m_major=st.booleans(),
    has_nan=st.booleans(),
)
@settings(max_examples=40, deadline=None)
@example([130, 0, 1, 77, 256], 9, 144, torch.bfloat16, False, True, True)
@example([0, 0], 0, 16, torch.bfloat16, False, False, False)
@example([0, 0], 5, 16, torch.bfloat16, False, False, False)
@example([128, 16, 1], 0, 130, torch.float32, True, True, True)
def test_each_group_is_quantised_by_itself(
    sizes: list[int],
    behind: int,
    features: int,
    dtype: torch.dtype,
    power: bool,
    m_major: bool,
    has_nan: bool,
) -> None:
    """To the bit what other functions make of a group's rows alone, and zeros; nothing else is written."""
    groups, m = len(sizes), sum(sizes) + behind
    ends = torch.tensor(sizes).cumsum(0).int()
    edges = column_groups.padded_offsets(ends, m)
    assert torch.equal(edges, edges_and_ends(sizes, [0] * groups)[0])
    x = normal(m, features, dtype=dtype)
    # What is of no group reaches nothing.
    x[sum(sizes) :] = torch.nan
    if has_nan:
        x[: sum(sizes) : 5, features // 2] = torch.nan
    made = results(m, features, groups, m_major)
    named: dict[str, Any] = {"power_of_two_scales": power, "m_major_scales": m_major}
    given = dict(zip(("out", "scales_out", "out_t", "scales_out_t"), made, strict=True))
    found = quantize_both_ways(x, offsets=edges, ends=ends, **given, **named)
    assert [id(each) for each in sum(found, ())] == [id(each) for each in made]
    new = sum(quantize_both_ways(x, offsets=edges, ends=ends, **named), ())
    assert [(a.shape, a.stride()) for a in new] == [(a.shape, a.stride()) for a in made]

    want = want_q, want_s, want_q_t, want_s_t = results(m, features, groups, m_major)
    bounds = zip(sizes, ends.tolist(), edges.tolist(), strict=False)
    for group, (size, end, begin) in enumerate(bounds):
        if not size:
            continue
        own = x[end - size : end]
        of_rows, of_columns = (quantize_1x128(each, power_of_two_scales=power) for each in (own, own.t()))
        want_q.view(torch.uint8)[end - size : end] = of_rows[0].view(torch.uint8)
        want_s[end - size : end] = of_rows[1]
        want_q_t.view(torch.uint8)[:, begin : begin - (-size // 16) * 16] = 0
        want_q_t.view(torch.uint8)[:, begin : begin + size] = of_columns[0].view(torch.uint8)
        start = begin // 128 + group
        want_s_t[:, start : start + of_columns[1].shape[1]] = of_columns[1]
    for got, wanted in zip(made, want, strict=True):
        assert torch.equal(bits(got), bits(wanted))


@given(
    edges=st.lists(st.integers(-99, 400), min_size=2, max_size=9),
    ends=st.lists(st.integers(-99, 400), min_size=8, max_size=8),
    m=st.integers(0, 300),
)
@example(edges=[-(2**31), 2**31 - 1], ends=[2**31 - 1] * 8, m=9)
@settings(deadline=None)
def test_vectors_that_make_no_sense_write_nothing_beyond(edges: list[int], ends: list[int], m: int) -> None:
    groups, x = len(edges) - 1, normal(m, 24)
    (q, s), (q_t, s_t) = quantize_both_ways(x, offsets=int32(*edges), ends=int32(*ends[:groups]))
    columns = 16 * (m // 16 + groups)
    assert (q.shape, s.shape, q_t.shape) == ((m, 24), (m, 1), (24, columns))
    assert s_t.shape == (24, columns // 128 + groups)


@given(ends=st.lists(st.integers(-99, 400), min_size=1, max_size=9), m=st.integers(0, 300))
@settings(deadline=None)
def test_offsets_of_any_ends_fit(ends: list[int], m: int) -> None:
    edges = column_groups.padded_offsets(int32(*ends), m)
    assert edges[0] == 0
    assert (edges.diff() >= 0).all()
    assert (edges % 16 == 0).all()
    assert edges[-1] <= column_groups.padded_columns(m, len(ends))


def test_an_operand_of_tokens() -> None:
    edges, ends = edges_and_ends([130, 0, 1, 77], [0] * 4)
    x = normal(220, 40)
    q, s = quantize_k_grouped(x, edges, ends=ends)
    want_q, want_s = quantize_both_ways(x, offsets=edges, ends=ends, m_major_scales=True)[1]
    assert (q.stride(), s.stride()) == (want_q.stride(), want_s.stride())
    used = column_groups.blocks(edges, q.shape[1]).is_used
    inside = column_groups.are_grouped(edges, q.shape[1])
    assert torch.equal(bits(q)[:, inside], bits(want_q)[:, inside])
    assert torch.equal(s[:, used], want_s[:, used])


X, EDGES, ENDS = normal(40, 48), int32(0, 16, 32), int32(3, 20)
WRITTEN = torch.empty(48, 64, dtype=E4M3)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: quantize_both_ways(X, ends=ENDS), ValueError, "ends is given, but offsets is None; wanted"),
        (
            lambda: quantize_both_ways(X, offsets=EDGES, ends=EDGES),
            ValueError,
            r"ends has shape \(3,\); wanted \[2\]",
        ),
        (
            lambda: quantize_both_ways(X, offsets=EDGES, ends=ENDS[None]),
            ValueError,
            r"ends has shape \(1, 2\)",
        ),
        (lambda: quantize_both_ways(X, offsets=EDGES, ends=[3, 20]), TypeError, "ends is a builtins.list"),
        (
            lambda: quantize_both_ways(X, offsets=EDGES, ends=ENDS.long()),
            TypeError,
            r"`ends.to\(torch.int32\)`",
        ),
        (
            lambda: quantize_both_ways(X, offsets=EDGES, ends=ENDS, out_t=torch.empty(48, 40, dtype=E4M3)),
            ValueError,
            r"out_t has shape \(48, 40\); wanted \(48, 64\)",
        ),
        (
            lambda: quantize_both_ways(
                X, offsets=EDGES, ends=WRITTEN.view(torch.int32)[0, :2], out_t=WRITTEN
            ),
            ValueError,
            "ends and out_t overlap|out_t .*ends|ends",
        ),
    ],
)
def test_what_is_refused(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("is_dynamic", [False, True])
def test_compiled_code_gives_the_same_bits(is_dynamic: bool) -> None:
    def both(x: Tensor, ends: Tensor) -> tuple[Tensor, ...]:
        edges = column_groups.padded_offsets(ends, x.shape[0])
        (q, s), (q_t, s_t) = quantize_both_ways(x, offsets=edges, ends=ends)
        return q[:20], s[:20], q_t[:, : edges.shape[0] * 16], s_t

    torch._dynamo.reset()
    for m in (40, 57):
        x, ends = normal(m, 48), int32(3, 35)
        got, want = compiled(both, dynamic=is_dynamic)(x, ends), both(x, ends)
        assert torch.equal(bits(got[0]), bits(want[0]))
        assert torch.equal(got[1], want[1])
        assert torch.equal(bits(got[2]), bits(want[2]))


def test_the_op_is_sound() -> None:
    named = {"offsets": EDGES, "ends": ENDS}
    op = torch.ops.cute_gemm.quantize_both_ways
    torch_library.opcheck(op.default, (X,), named, test_utils=("test_faketensor",))
    into = torch.ops.cute_gemm.quantize_both_ways_out.default
    torch_library.opcheck(into, (X, *results(40, 48, 2)), named, test_utils=("test_faketensor",))


# What the kernel does


@pytest.mark.parametrize("m_major", [False, True])
def test_what_is_in_order_is_launched(m_major: bool) -> None:
    m, k, groups = 157, 272, 3
    x, made = torch.empty(m, k, dtype=torch.bfloat16), results(m, k, groups, m_major)
    edges, ends = torch.zeros(groups + 1, dtype=torch.int32), torch.zeros(groups, dtype=torch.int32)
    assert holds(CONFIG, (x, *made), (edges, ends))
    q, s, q_t, s_t = made
    inside = s_t.as_strided((groups,), (1,)).view(torch.int32)
    refused = {
        "edges of more groups": ((x, *made), (torch.zeros(groups + 2, dtype=torch.int32), ends)),
        "ends of more groups": ((x, *made), (edges, torch.zeros(groups + 1, dtype=torch.int32))),
        "no group": ((x, q, s, q_t[:, :160], s_t[:, :1]), (edges[:1], ends[:0])),
        "ends in what is written": ((x, *made), (edges, inside)),
        "scales of other groups": ((x, q, s, q_t, torch.empty(k, 3)), (edges, ends)),
        "too few columns": ((x, q, s, q_t[:, :-16], s_t), (edges, ends)),
        "rows of another matrix": ((x[:-1], *made), (edges, ends)),
    }
    for what, (arguments, index) in refused.items():
        assert not holds(CONFIG, arguments, index), what
    for count, is_one in ((1022, True), (1023, False)):
        index = (torch.zeros(count + more, dtype=torch.int32) for more in (1, 0))
        assert holds(CONFIG, (x, *results(m, k, count, m_major)), tuple(index)) == is_one


class SpansOfBlocks:
    """Writes down which rows and columns each block has."""

    @cute.jit
    def __call__(self, edges: cute.Tensor, ends: cute.Tensor, rows: Int32, found: cute.Tensor):
        blocks = BlocksByEnds(edges, ends)
        for i in cutlass.range(blocks.count(rows), unroll=1):
            of_rows, of_columns = blocks.spans_of(i, rows)
            for each in cutlass.range_constexpr(2):
                found[i, each] = Int32(of_rows[each])
                found[i, 2 + each] = Int32(of_columns[each])


@functools.cache
def spans_of_blocks() -> Callable[..., None]:
    generic = cute.AddressSpace.generic
    vectors = (
        dsl.make_fake_tensor(Int32, (cute.sym_int32(),), (1,), memspace=generic, assumed_align=4)
        for _ in range(2)
    )
    found = dsl.make_fake_tensor(Int32, (cute.sym_int32(), 4), (4, 1), memspace=generic, assumed_align=4)
    with on_the_host(1):
        return cute.compile(SpansOfBlocks(), *vectors, Int32(0), found, options="--enable-tvm-ffi")


def spans(edges: Tensor, ends: Tensor, m: int) -> list[tuple[int, ...]]:
    columns = column_groups.padded_columns(m, len(ends))
    found = torch.full((columns // 128 + len(ends), 4), -1, dtype=torch.int32)
    spans_of_blocks()(edges, ends, m, found)
    return [tuple(each) for each in found.tolist()]


@given(sizes=SIZES, behind=st.integers(0, 99), more=st.integers(0, 1))
@example(sizes=[1] * 1022, behind=0, more=0)
@example(sizes=[i % 3 for i in range(1022)], behind=99, more=0)
@example(sizes=[0] * 64, behind=9, more=1)
@settings(max_examples=60, deadline=None)
def test_the_kernels_rows_are_those_of_the_formula(sizes: list[int], behind: int, more: int) -> None:
    m = sum(sizes) + behind
    # Room that is left somewhere, as long as it lasts.
    edges, ends = edges_and_ends(sizes, [more, *[0] * (len(sizes) - 1)])
    rows = column_groups.rows_of_columns(edges, ends, m)
    wanted = column_groups.blocks(edges, len(rows))
    for (row, behind_rows, column, end), first, last in zip(
        spans(edges, ends, m), wanted.first.tolist(), wanted.end.tolist(), strict=True
    ):
        if not last:
            assert column >= end
            continue
        assert (column, end) == (first, last)
        of_rows = [*range(row, behind_rows), *[m] * (last - first - (behind_rows - row))]
        assert rows[first:last].tolist() == of_rows


ANY = st.one_of(st.sampled_from([-(2**31), -1, 2**31 - 1]), st.integers(-99, 900))


@given(vectors=st.lists(st.tuples(ANY, ANY), min_size=2, max_size=40), m=st.integers(1, 800))
@settings(max_examples=60, deadline=None)
def test_no_block_reaches_beyond_the_matrices(vectors: list[tuple[int, int]], m: int) -> None:
    edges, ends = (int32(*each) for each in zip(*vectors, strict=True))
    columns = column_groups.padded_columns(m, len(ends) - 1)
    for row, behind, column, end in spans(edges, ends[1:], m):
        assert 0 <= row <= m
        assert behind <= m
        assert column >= 0
        assert end <= min(columns, column + 128)
        assert column % 16 == end % 16 == 0
        if column < end:
            assert row <= behind <= row + end - column


class Masks:
    """Writes down the mask of each number of bytes."""

    @cute.jit
    def __call__(self, found: cute.Tensor):
        for i in cutlass.range(found.shape[0], unroll=1):
            found[i] = turned.mask_of(i - 3)


def test_bytes_of_a_word_that_are_kept() -> None:
    generic = cute.AddressSpace.generic
    vector = dsl.make_fake_tensor(Int32, (cute.sym_int32(),), (1,), memspace=generic, assumed_align=4)
    with on_the_host(1):
        program = cute.compile(Masks(), vector, options="--enable-tvm-ffi")
    found = torch.zeros(11, dtype=torch.int32)
    program(found)
    kept = found.view(torch.uint8).view(-1, 4)
    for count, each in enumerate(kept.tolist(), start=-3):
        assert each == [255 if i < count else 0 for i in range(4)]
