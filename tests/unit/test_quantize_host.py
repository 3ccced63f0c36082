"""What kernels that quantise do on the host: scales, by the very code of the device; and what is launched."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cutlass
import cutlass.cute as cute
import pytest
import torch
from cutlass import Float32, Int32
from cutlass.cute import runtime as dsl
from host_code import holds
from torch import Tensor

from cute_gemm.kernels.quantize import elements, lanes, memory, tile, turned
from cute_gemm.kernels.sm90.tma import as_matrices
from cute_gemm.plan.quantizer import (
    SOURCE_BYTES,
    BlockQuantizer,
    BothWaysQuantizer,
    NormQuantizer,
    RowQuantizer,
)
from cute_gemm.quantize import formula
from cute_gemm.runtime import cache
from cute_gemm.runtime.quantizers import strides_of_scales

E4M3 = torch.float8_e4m3fn


@pytest.fixture(autouse=True)
def nothing_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, "")


# Scales


class Scales:
    """Those of largest magnitudes, given by their bits."""

    def __init__(self, is_power_of_two: bool) -> None:
        self.is_power_of_two = is_power_of_two

    @cute.jit
    def __call__(self, amax: cute.Tensor, scales: cute.Tensor):
        for i in range(amax.shape[0]):
            scales[i] = elements.scale_of(amax[i], self.is_power_of_two)


@functools.cache
def scales_on_the_host(is_power_of_two: bool) -> Callable[..., None]:
    length = cute.sym_int32()
    arguments = (
        dsl.make_fake_tensor(each, (length,), (1,), memspace=cute.AddressSpace.generic, assumed_align=4)
        for each in (Int32, Float32)
    )
    return cute.compile(Scales(is_power_of_two), *arguments, options="--enable-tvm-ffi")


@pytest.mark.parametrize("is_power_of_two", [False, True])
def test_a_scale_has_the_bits_that_torch_gives_it(is_power_of_two: bool) -> None:
    compute = scales_on_the_host(is_power_of_two)
    # Of each exponent some fractions, among them the first and the last; of one exponent all.
    fractions = torch.cat([torch.arange(0, 1 << 23, 4099), torch.arange(-8, 8) % (1 << 23)])
    amax = ((torch.arange(256)[:, None] << 23) + fractions).flatten()
    amax = torch.cat([amax, (100 << 23) + torch.arange(1 << 23)]).int()
    found = torch.full(amax.shape, 7.0)
    compute(amax, found)
    wanted = formula.scales(amax.view(torch.float32), is_power_of_two)
    assert torch.equal(found.isnan(), wanted.isnan())
    assert torch.equal(found.nan_to_num(0).view(torch.int32), wanted.nan_to_num(0).view(torch.int32))


# What is launched


def aligned(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A contiguous tensor that begins on 16 bytes."""
    x = torch.empty(shape, dtype=dtype)
    assert x.data_ptr() % 16 == 0
    return x


def results(m: int, k: int, *matrices: int, m_major: bool = False) -> tuple[Tensor, Tensor]:
    shape = (*matrices, m, -(-k // 128))
    s = torch.empty_strided(shape, strides_of_scales(shape, m_major))
    return aligned(*matrices, m, k, dtype=E4M3), s


PLAIN = RowQuantizer("bfloat16")


@pytest.mark.parametrize("m_major", [False, True])
@pytest.mark.parametrize(("m", "k"), [(1, 16), (3, 128), (130, 400), (7, 7168)])
def test_rows_that_are_in_order_are_launched(m: int, k: int, m_major: bool) -> None:
    x = aligned(m, k)
    assert holds(PLAIN, (x, *results(m, k, m_major=m_major)))
    wide = aligned(m, k + 32)[:, 16:-16]
    assert holds(PLAIN, (wide, *results(m, k, m_major=m_major)))
    assert holds(PLAIN, (x[:1].expand(m, k), *results(m, k)))
    padded = aligned(m, k + 16, dtype=E4M3)[:, :k]
    assert holds(PLAIN, (x, padded, results(m, k)[1]))


def test_what_a_kernel_would_get_wrong_is_not_launched() -> None:
    m, k = 6, 272
    x, (q, s) = aligned(m, k), results(m, k)
    assert holds(PLAIN, (x, q, s))
    flat = aligned(4 * m * k)
    refused = {
        "K is no multiple of 16": (aligned(m, 264), *results(m, 264)),
        "x begins off 16 bytes": (flat[1 : 1 + m * k].view(m, k), q, s),
        "rows of x do": (flat.as_strided((m, k), (k + 4, 1)), q, s),
        "columns of x are apart": (flat.as_strided((m, k), (2 * k, 2)), q, s),
        "rows of q overlap": (x, aligned(m * k, dtype=E4M3).as_strided((m, k), (k - 16, 1)), s),
        "q begins off 16 bytes": (x, aligned(m * k + 16, dtype=E4M3)[8 : 8 + m * k].view(m, k), s),
        "too few scales": (x, q, s[:, :-1]),
        "scales overlap": (x, q, torch.empty(100).as_strided(s.shape, (1, 1))),
        "scales of one row": (x, q, s[:1].expand(m, 3)),
        "another x": (aligned(m, k + 16), q, s),
        "fewer rows": (x[:-1], q, s),
        "no rows": (x[:0], q[:0], s[:0]),
        "q in x": (x, x.view(E4M3).view(-1)[: m * k].view(m, k), s),
        "s in x": (x, q, x.view(-1).view(torch.float32)[: s.numel()].view(s.shape)),
        "s in q": (x, q, q.view(-1)[: 4 * s.numel()].view(torch.float32).view(s.shape)),
        "fp16": (x.half(), q, s),
    }
    for what, arguments in refused.items():
        assert not holds(PLAIN, arguments), what


def freed(like: Tensor) -> Tensor:
    """A tensor whose memory is gone."""
    made = torch.empty_like(like)
    made.untyped_storage().resize_(0)
    return made


def test_what_has_no_memory_is_not_launched() -> None:
    x, (q, s) = aligned(6, 272), results(6, 272)
    index = torch.zeros(6, dtype=torch.int32)
    gathered = replace(PLAIN, rows="gathered")
    assert holds(gathered, (x, q, s), (index,))
    for arguments in ((freed(x), q, s), (x, freed(q), s), (x, q, freed(s))):
        assert not holds(PLAIN, arguments)
    assert not holds(gathered, (x, q, s), (freed(index),))


def test_matrices_are_judged_one_by_one() -> None:
    config = replace(PLAIN, has_matrices=True)
    x, (q, s) = aligned(3, 6, 48), results(6, 48, 3)
    assert holds(config, (x, q, s))
    assert holds(config, (x, q, results(6, 48, 3, m_major=True)[1]))
    assert holds(config, (aligned(6, 3, 48).transpose(0, 1), q, s))
    assert not holds(config, (x, q, s[:1].expand(3, 6, 1)))
    assert not holds(config, (x, q[:1].expand(3, 6, 48), s))


def test_an_index_must_lie_apart_from_what_is_written() -> None:
    x, (q, s) = aligned(8, 256), results(8, 256)
    for rows in ("gathered", "owned"):
        config = replace(PLAIN, rows=rows)
        assert holds(config, (x, q, s), (torch.zeros(8, dtype=torch.int32),))
        assert not holds(config, (x, q, s), (s.view(-1)[:8].view(torch.int32),))
        assert not holds(config, (x, q, s), (torch.zeros(7, dtype=torch.int32),))
    ends = torch.zeros(3, dtype=torch.int32)
    by_offsets = replace(PLAIN, rows="offsets")
    for alignment, is_one in ((1, True), (1024, True), (0, False), (1025, False), (-1, False)):
        assert holds(by_offsets, (x, q, s), (ends, alignment)) == is_one
    assert not holds(by_offsets, (x, q, s), (ends[:0], 1))
    assert holds(by_offsets, (x, q, s), (torch.zeros(1022, dtype=torch.int32), 1))
    assert not holds(by_offsets, (x, q, s), (torch.zeros(1023, dtype=torch.int32), 1))
    valid = replace(PLAIN, rows="valid", has_matrices=True)
    assert holds(valid, (x[None], q[None], s[None]), (ends[:1],))
    assert not holds(valid, (x[None], q[None], s[None]), (ends,))
    gathered = replace(PLAIN, rows="gathered", index_dtype="int64")
    assert holds(gathered, (x, *results(20, 256)), (torch.zeros(20, dtype=torch.int64),))


def test_swiglu_wants_twice_as_many_columns() -> None:
    config = replace(PLAIN, source="swiglu")
    assert holds(config, (aligned(5, 512), *results(5, 256)))
    assert not holds(config, (aligned(5, 256), *results(5, 256)))
    assert not holds(config, (aligned(5, 528), *results(5, 256)))


def test_blocks() -> None:
    config = BlockQuantizer("float32")
    w, q, s = aligned(200, 272, dtype=torch.float32), aligned(200, 272, dtype=E4M3), torch.empty(2, 3)
    assert holds(config, (w, q, s))
    assert holds(config, (w, q, torch.empty(3, 2).T))
    assert not holds(config, (w, q, torch.empty(200, 3)))
    assert not holds(config, (w, q, torch.empty(1, 3)))


def test_blocks_of_a_transpose() -> None:
    config = BlockQuantizer("float32", is_transposed=True)
    w, q, s = aligned(208, 272, dtype=torch.float32), aligned(272, 208, dtype=E4M3), torch.empty(3, 2)
    assert holds(config, (w, q, s))
    assert holds(config, (w, q, torch.empty(2, 3).T))
    assert not holds(config, (w, q, torch.empty(2, 3)))
    # A thread has whole pieces of either.
    narrow = aligned(208, 272, dtype=torch.float32)[:, :268]
    assert not holds(config, (narrow, aligned(268, 208, dtype=E4M3), s))
    assert not holds(config, (w[:200], aligned(272, 200, dtype=E4M3), s))


def test_both_ways() -> None:
    config = BothWaysQuantizer("bfloat16")
    x, along_k, along_m = aligned(160, 272), results(160, 272), results(272, 160)
    assert holds(config, (x, *along_k, *along_m))
    assert not holds(config, (x, *along_k, along_k[0].view(-1).view(272, 160), along_m[1]))
    assert not holds(config, (aligned(152, 272), *results(152, 272), *results(272, 152)))


def test_both_ways_of_matrices() -> None:
    config = BothWaysQuantizer("bfloat16", has_matrices=True)
    for m_major in (False, True):
        along_k, along_m = (results(*each, 3, m_major=m_major) for each in ((160, 272), (272, 160)))
        x = aligned(3, 160, 272)
        within = along_k[0].view(-1)[: 4 * 3 * 272 * 2].view(torch.float32).view(3, 272, 2)
        assert holds(config, (x, *along_k, *along_m))
        assert holds(config, (x[:1].expand(3, 160, 272), *along_k, *along_m))
        assert not holds(config, (x, *along_k, along_m[0][:1].expand(3, 272, 160), along_m[1]))
        assert not holds(config, (x, *along_k, along_m[0], along_m[1][:1].expand(3, 272, 2)))
        assert not holds(config, (x, *along_k, along_m[0], within))


def test_normed_rows() -> None:
    x, w, residual, (q, s) = aligned(5, 1024), aligned(1024), aligned(5, 1024), results(5, 1024)
    config = NormQuantizer.of("bfloat16", 1024)
    assert config is not None
    assert holds(config, (x, w, q, s), (1e-6,))
    assert not holds(config, (x, w[:-16], q, s), (1e-6,))
    assert not holds(config, (x, aligned(1032)[8:], q, s[:, :7]), (1e-6,))
    assert not holds(config, (x, aligned(1028)[4:], q, s), (1e-6,))
    assert not holds(config, (aligned(5, 1040), aligned(1040), *results(5, 1040)), (1e-6,))
    with_residual = replace(config, has_residual=True)
    assert holds(with_residual, (x, w, q, s), (residual, 1e-6))
    assert not holds(with_residual, (x, w, q, s), (x, 1e-6))
    assert not holds(with_residual, (x, w, q, s), (residual[:1].expand(5, 1024), 1e-6))
    assert NormQuantizer.of("bfloat16", 16384) is not None
    assert NormQuantizer.of("bfloat16", 16400) is None


def test_a_normed_row_has_no_more_warps_than_hold_it() -> None:
    for dtype, size in SOURCE_BYTES.items():
        for k in range(16, 32768 // size + 1, 16):
            config = NormQuantizer.of(dtype, k)
            assert config is not None
            assert config.steps in (1, 2, 4)
            warps, of_warp = config.threads // 32, 32 * config.steps * 16 // size
            assert config.threads == 32 * warps
            assert (warps - 1) * of_warp < k <= warps * of_warp


# What lanes work out together


@pytest.mark.parametrize("apart", [(1, 2, 4), (1, 2, 4, 8), (1, 2, 4, 8, 16), (8, 16)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
def test_values_are_shared_out(monkeypatch: pytest.MonkeyPatch, count: int, apart: tuple[int, ...]) -> None:
    """All lanes of a warp at once: a value is a tensor of 32."""
    lane = torch.arange(32)
    monkeypatch.setattr(lanes.cutlass, "select_", torch.where)
    monkeypatch.setattr(lanes.cute.arch, "shuffle_sync_bfly", lambda value, by: value[lane ^ by])
    values = [*torch.randint(0, 1000, (count, 32), generator=torch.Generator().manual_seed(count))]
    found = lanes.shared_out(values, lane, apart, torch.maximum)
    every = min(count, 1 << len(apart))
    assert len(found) == count // every
    for own in range(32):
        others = [other for other in range(32) if (own ^ other) & ~sum(apart) == 0]
        first = sum(1 << i for i, by in enumerate(apart) if own & by) % every
        for number, value in enumerate(found):
            assert value[own] == values[every * number + first][others].max()


@pytest.mark.parametrize("dtype", [cutlass.BFloat16, cutlass.Float32])
def test_words_of_columns_lie_in_all_banks(dtype: type[cutlass.Numeric]) -> None:
    piece, in_warp = 128 // dtype.width, 4
    words = range(tile.SIDE // tile.ROWS)
    where = {
        (column, word): column * len(words) + turned.place_of(word, column // piece % tile.LANES)
        for column in range(tile.SIDE)
        for word in words
    }
    assert sorted(where.values()) == [*range(tile.SIDE * len(words))]
    # A warp writes a word for each of four times four rows, of columns that are a piece apart.
    for start, j, first in itertools.product(
        range(0, tile.SIDE, piece * tile.LANES), range(piece), words[::in_warp]
    ):
        columns = range(start + j, start + piece * tile.LANES, piece)
        of_warp = itertools.product(columns, range(first, first + in_warp))
        assert len({where[each] % 32 for each in of_warp}) == 32
    # Eight lanes read a column, four words each; those of a lane follow each other.
    for column in range(tile.SIDE):
        places = [where[column, word] for word in words]
        assert all(places[i : i + 4] == [*range(places[i], places[i] + 4)] for i in words[::4])
        assert all(place % 4 == 0 for place in places[::4])
        assert len({place % 32 for place in places}) == 32


def test_normed_rows_that_are_selected() -> None:
    x, w, residual, (q, s) = aligned(8, 1024), aligned(1024), aligned(8, 1024), results(8, 1024)
    config = NormQuantizer.of("bfloat16", 1024, rows="gathered", index_dtype="int64")
    assert config is not None
    index = torch.zeros(20, dtype=torch.int64)
    assert holds(config, (x, w, *results(20, 1024)), (index, 1e-6))
    assert not holds(config, (x, w, q, s), (index, 1e-6))
    owned = replace(config, rows="owned", index_dtype="int32", has_residual=True)
    groups = torch.zeros(8, dtype=torch.int32)
    assert holds(owned, (x, w, q, s), (residual, groups, 1e-6))
    assert not holds(owned, (x, w, q, s), (residual, residual.view(-1).view(torch.int32)[:8], 1e-6))
    assert not holds(owned, (x, w, q, s), (residual, s.view(-1)[:8].view(torch.int32), 1e-6))
    # More columns than a kernel takes groups.
    offsets = replace(config, rows="offsets", index_dtype="int32")
    ends = torch.zeros(3, dtype=torch.int32)
    for alignment, is_one in ((1, True), (1024, True), (0, False), (1025, False)):
        assert holds(offsets, (x, w, q, s), (ends, 1e-6, alignment)) == is_one
    assert not holds(offsets, (x, w, q, s), (torch.zeros(1023, dtype=torch.int32), 1e-6, 1))
    valid = replace(owned, rows="valid", has_matrices=True)
    assert holds(valid, (x[None], w, q[None], s[None]), (residual[None], ends[:1], 1e-6))
    assert not holds(valid, (x[None], w, q[None], s[None]), (residual[None], ends, 1e-6))


# What matrices become


class Merged:
    """Tells what becomes of (rows, columns, matrices): their extents and steps in elements."""

    @cute.jit
    def __call__(self, x: cute.Tensor, other: cute.Tensor, found: cute.Tensor):
        made = memory.merged((as_matrices(x), as_matrices(other)))
        for each in cutlass.range_constexpr(2):
            found[each, 0] = cutlass.Int64(made[each].shape[0])
            found[each, 1] = cutlass.Int64(made[each].shape[2])
            found[each, 2] = cutlass.Int64(made[each].stride[0])


@functools.cache
def merging() -> Callable[..., None]:
    def fake(dtype: Any, *shape: Any) -> Any:
        strides = tuple(cute.sym_int64() for _ in shape)
        return dsl.make_fake_tensor(dtype, shape, strides, memspace=cute.AddressSpace.generic)

    count, m, k, blocks = (cute.sym_int32() for _ in range(4))
    arguments = fake(cutlass.BFloat16, count, m, k), fake(Float32, count, m, blocks)
    return cute.compile(Merged(), *arguments, fake(cutlass.Int64, 2, 3), options="--enable-tvm-ffi")


def test_matrices_that_follow_each_other_become_one() -> None:
    scales = torch.empty(3, 4, 2)
    x = torch.empty(3, 4, 256, dtype=torch.bfloat16)
    wide = torch.empty(3, 8, 512, dtype=torch.bfloat16)
    m_major = torch.empty(3, 2, 4).mT
    as_they_are = (4, 3)
    cases: tuple[tuple[Tensor, Tensor, tuple[int, int], tuple[int, int]], ...] = (
        (x, scales, (12, 1), (256, 2)),
        (torch.empty(3, 4, 512, dtype=torch.bfloat16)[:, :, :256], scales, (12, 1), (512, 2)),
        (wide[:, :4, :256], scales, as_they_are, (512, 2)),
        (x[:1].expand(3, 4, 256), scales, as_they_are, (256, 2)),
        (x, m_major, as_they_are, (256, 1)),
        (wide[:, :1, :256], scales[:, :1], (3, 1), (4096, 8)),
        (x[:1, :1].expand(3, 1, 256), m_major[:, :1], (3, 1), (0, 8)),
        (x[:1], m_major[:1], (4, 1), (256, 1)),
    )
    for one, other, (rows, count), steps in cases:
        found = torch.zeros(2, 3, dtype=torch.int64)
        merging()(one, other, found)
        assert found.tolist() == [[rows, count, steps[0]], [rows, count, steps[1]]]
