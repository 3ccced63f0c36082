"""What the grouped operations return on the CPU, in every layout, also for an index that breaks its rules."""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from cute_gemm import (
    contiguous_alignment,
    epilogue,
    m_grouped_fp8_gemm_nt_contiguous,
    m_grouped_fp8_gemm_nt_masked,
    m_grouped_fp8_gemm_nt_offsets,
)
from cute_gemm.testing import (
    GroupedInputs,
    assert_grouped_correct,
    make_contiguous_inputs,
    make_masked_inputs,
    make_offsets_inputs,
    poisoned_rows,
)
from examples import examples

BF16, FP32 = torch.bfloat16, torch.float32

Call = Callable[..., torch.Tensor]


def contiguous(inputs: GroupedInputs, **kwargs: Any) -> torch.Tensor:
    return m_grouped_fp8_gemm_nt_contiguous(inputs.lhs, inputs.rhs, inputs.index, **kwargs)


def offsets(inputs: GroupedInputs, **kwargs: Any) -> torch.Tensor:
    return m_grouped_fp8_gemm_nt_offsets(inputs.lhs, inputs.rhs, inputs.index, **kwargs)


def masked(inputs: GroupedInputs, **kwargs: Any) -> torch.Tensor:
    return m_grouped_fp8_gemm_nt_masked(inputs.lhs, inputs.rhs, inputs.index, 5, **kwargs)


def is_right(call: Call, inputs: GroupedInputs, dtype: torch.dtype = BF16, **kwargs: Any) -> None:
    """Right with a result that is given, of which other rows stay as they are, and with an allocated one."""
    n = inputs.rhs[0].shape[1]
    out, check = poisoned_rows(inputs.row_groups >= 0, n, dtype)
    assert call(inputs, out=out, **kwargs) is out
    check()
    assert_grouped_correct(out, inputs.lhs, inputs.rhs, inputs.row_groups)
    allocated = call(inputs, out_dtype=dtype, **kwargs)
    assert allocated.is_contiguous()
    assert (allocated.dtype, allocated.shape) == (dtype, (*inputs.row_groups.shape, n))
    is_written = inputs.row_groups >= 0
    torch.testing.assert_close(allocated[is_written], out[is_written])


def is_filled(call: Call, inputs: GroupedInputs, dtype: torch.dtype = BF16, **kwargs: Any) -> None:
    """With `fill=0` rows of groups have the bits that they have without, and all others are zeros."""
    n, is_written = inputs.rhs[0].shape[1], inputs.row_groups >= 0
    plain = call(inputs, out_dtype=dtype, **kwargs)
    wanted = torch.where(is_written[..., None], plain, 0)
    out, check = poisoned_rows(torch.ones_like(is_written), n, dtype)
    assert call(inputs, out=out, fill=0, **kwargs) is out
    check()
    for filled in out, call(inputs, out_dtype=dtype, fill=0, **kwargs):
        assert torch.equal(filled, wanted)
        # Not those of -0.
        assert not torch.signbit(filled[~is_written]).any()


sizes = st.lists(st.sampled_from([0, 0, 1, 3, 127, 128, 129]), min_size=1, max_size=4)
n_and_k = st.tuples(st.sampled_from([8, 24, 136]), st.sampled_from([16, 144, 256]))
dtypes = st.sampled_from([BF16, FP32])


@examples(42)
@given(
    sizes=sizes, n_k=n_and_k, dtype=dtypes, m=st.sampled_from([None, 1025]), data=st.data(),
    validate=st.booleans(),
)  # fmt: skip
def test_contiguous_groups(
    sizes: list[int], n_k: tuple[int, int], dtype: torch.dtype, m: int | None, data: st.DataObject,
    validate: bool,
) -> None:  # fmt: skip
    order = data.draw(st.permutations(range(len(sizes))))
    inputs = make_contiguous_inputs(sizes, *n_k, order=order, m=m)
    is_right(contiguous, inputs, dtype, validate=validate)
    is_filled(contiguous, inputs, dtype, validate=validate)


@examples(42)
@given(
    sizes=sizes, n_k=n_and_k, dtype=dtypes, alignment=st.sampled_from([1, 2, 16, 128]),
    m=st.sampled_from([None, 1025]), validate=st.booleans(),
)  # fmt: skip
def test_groups_by_offsets(
    sizes: list[int], n_k: tuple[int, int], dtype: torch.dtype, alignment: int, m: int | None, validate: bool
) -> None:
    inputs = make_offsets_inputs(sizes, *n_k, alignment=alignment, m=m)
    is_right(offsets, inputs, dtype, alignment=alignment, validate=validate)
    is_filled(offsets, inputs, dtype, alignment=alignment, validate=validate)


@examples(42)
@given(sizes=sizes, n_k=n_and_k, dtype=dtypes, spare=st.sampled_from([0, 1, 130]), validate=st.booleans())
def test_masked_groups(
    sizes: list[int], n_k: tuple[int, int], dtype: torch.dtype, spare: int, validate: bool
) -> None:
    inputs = make_masked_inputs(sizes, max(sizes) + spare, *n_k)
    is_right(masked, inputs, dtype, validate=validate)
    is_filled(masked, inputs, dtype, validate=validate)


LAYOUTS: dict[str, tuple[Call, GroupedInputs]] = {
    "contiguous": (contiguous, make_contiguous_inputs([3, 0, 130], 24, 144, m=400)),
    "offsets": (offsets, make_offsets_inputs([3, 0, 130], 24, 144, m=140)),
    "masked": (masked, make_masked_inputs([3, 0, 130], 135, 24, 144)),
}
every_layout = pytest.mark.parametrize(("call", "inputs"), LAYOUTS.values(), ids=LAYOUTS)


def amid(x: torch.Tensor, *gaps: int) -> torch.Tensor:
    """The same values, with so many elements, rows and matrices between them, from the last dimension on."""
    extents = [extent + gap for extent, gap in zip(x.shape, reversed(gaps), strict=True)]
    view = torch.zeros(extents).to(x.dtype)[tuple(slice(extent) for extent in x.shape)]
    view.copy_(x)
    return view


def interleaved(x: torch.Tensor) -> torch.Tensor:
    """The same matrices, of which row 0 of all comes before row 1 of any."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)


@every_layout
def test_strided_operands(call: Call, inputs: GroupedInputs) -> None:
    (a, sa), (b, sb) = inputs.lhs, inputs.rhs
    gaps = (16, 2, 1)
    for lhs, rhs in (
        ((amid(a, *gaps[: a.dim()]), sa), (amid(b, *gaps), sb)),
        ((a, sa), (interleaved(b), sb)),
        ((a if a.dim() == 2 else interleaved(a), sa), (b, sb)),
        ((a, amid(sa, 3, 2, 1) if sa.dim() == 3 else amid(sa, 3, 2)), (b, amid(sb, 3, 2, 1))),
        ((a, sa.mT.contiguous().mT), (b, sb.mT.contiguous().mT)),
    ):
        strided = GroupedInputs(lhs, rhs, inputs.index, inputs.row_groups)
        is_right(call, strided)
    if a.dim() == 3:
        out = interleaved(torch.full((*inputs.row_groups.shape, 24), torch.nan))
        assert not out.is_contiguous()
        call(inputs, out=out)
        assert torch.equal(out.isnan().any(2), inputs.row_groups < 0)
        assert_grouped_correct(out, inputs.lhs, inputs.rhs, inputs.row_groups)


@every_layout
def test_scales_may_be_broadcast(call: Call, inputs: GroupedInputs) -> None:
    (a, sa), (b, sb) = inputs.lhs, inputs.rhs
    lhs, rhs = (a, torch.tensor(0.5).expand(sa.shape)), (b, torch.tensor(4.0).expand(sb.shape))
    is_right(call, GroupedInputs(lhs, rhs, inputs.index, inputs.row_groups))


@every_layout
def test_k_of_0_gives_zeros_in_the_rows_of_groups(call: Call, inputs: GroupedInputs) -> None:
    (a, sa), (b, sb) = inputs.lhs, inputs.rhs
    empty = GroupedInputs(
        (a[..., :0], sa[..., :0]), (b[..., :0], sb[..., :0]), inputs.index, inputs.row_groups
    )
    out = torch.full((*inputs.row_groups.shape, 24), 7.0)
    assert call(empty, out=out) is out
    assert torch.equal(out == 0, (inputs.row_groups >= 0)[..., None].expand_as(out))
    assert torch.equal(out == 7, (inputs.row_groups < 0)[..., None].expand_as(out))
    assert not call(empty)[inputs.row_groups >= 0].any()
    assert not call(empty, fill=0).any()


@every_layout
def test_out_from_inference_mode_is_written_as_a_kernel_would(call: Call, inputs: GroupedInputs) -> None:
    with torch.inference_mode():
        out = torch.zeros(*inputs.row_groups.shape, 24)
    call(inputs, out=out)
    assert_grouped_correct(out, inputs.lhs, inputs.rhs, inputs.row_groups)


@every_layout
def test_autograd_notices_a_new_value_in_out(call: Call, inputs: GroupedInputs) -> None:
    out = torch.ones(*inputs.row_groups.shape, 24)
    loss = (torch.ones_like(out, requires_grad=True) * out).sum()
    call(inputs, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def with_index(inputs: GroupedInputs, index: list[int], row_groups: list[Any]) -> GroupedInputs:
    return GroupedInputs(
        tuple(x.nan_to_num(1) if x.dtype is FP32 else one_for_nan(x) for x in inputs.lhs),
        inputs.rhs,
        torch.tensor(index, dtype=torch.int32),
        torch.tensor(row_groups, dtype=torch.int32),
    )


def one_for_nan(q: torch.Tensor) -> torch.Tensor:
    return q.float().nan_to_num(1).to(q.dtype)


HUGE = 2**31 - 1


def test_contiguous_blocks_of_no_group_are_skipped() -> None:
    inputs = make_contiguous_inputs([128] * 5, 24, 144)
    index = [first for first in (2, 5, HUGE, -7, 0) for _ in range(128)]
    rows = [group for group in (2, -1, -1, -1, 0) for _ in range(128)]
    is_right(contiguous, with_index(inputs, index, rows))
    is_filled(contiguous, with_index(inputs, index, rows))


@pytest.mark.parametrize(
    ("index", "alignment", "groups"),
    [
        # clamped to the rows there are
        ([3, HUGE], 1, [0] * 3 + [1] * 7),
        ([-5, 4], 1, [1] * 4 + [-1] * 6),
        ([-(2**31), HUGE], 1024, [1] * 10),
        # ends that decrease: rows 2 to 4 belong to groups 0 and 2
        ([5, 2, 8], 1, [0] * 5 + [2] * 3 + [-1] * 2),
        # an end inside the padding before the group's start
        ([3, 6, 10], 8, [0] * 3 + [-1] * 5 + [2] * 2),
    ],
)
def test_offsets_that_break_the_rules(index: list[int], alignment: int, groups: list[int]) -> None:
    inputs = make_offsets_inputs([4, 3, 3], 24, 144, m=10)
    (b, sb) = inputs.rhs
    count = len(index)
    cut = GroupedInputs(inputs.lhs, (b[:count], sb[:count]), inputs.index, inputs.row_groups)
    is_right(offsets, with_index(cut, index, groups), alignment=alignment)
    is_filled(offsets, with_index(cut, index, groups), alignment=alignment)


def test_valid_rows_are_clamped() -> None:
    inputs = make_masked_inputs([4] * 4, 4, 24, 144)
    groups = [[-1] * 4, [1] * 4, [-1] * 4, [3] * 4]
    is_right(masked, with_index(inputs, [-1, 5, -(2**31), HUGE], groups))
    is_filled(masked, with_index(inputs, [-1, 5, -(2**31), HUGE], groups))


EPILOGUES = {
    "bias_silu": epilogue.bias_silu(torch.ones(24, dtype=BF16)),
    "swiglu": epilogue.swiglu(),
    "accumulate": epilogue.accumulate(),
    "alpha": epilogue.alpha(0.5) | epilogue.relu(),
}


@pytest.mark.parametrize("name", EPILOGUES)
@every_layout
def test_an_epilogue_makes_nothing_of_rows_that_are_filled(
    call: Call, inputs: GroupedInputs, name: str
) -> None:
    of, (b, sb) = EPILOGUES[name], inputs.rhs
    if name == "swiglu":
        b, sb = b[:, :16], sb[:, :1]
    inputs = GroupedInputs(inputs.lhs, (b, sb), inputs.index, inputs.row_groups)
    is_written, columns = inputs.row_groups >= 0, 8 if name == "swiglu" else 24
    plain, filled = (torch.full((*is_written.shape, columns), 3.0) for _ in range(2))
    call(inputs, out=plain, epilogue=of)
    call(inputs, out=filled, epilogue=of, fill=0)
    assert (plain[~is_written] == 3).all()
    assert not filled[~is_written].any()
    assert torch.equal(filled[is_written], plain[is_written])


@every_layout
def test_what_is_quantised_is_not_filled(call: Call, inputs: GroupedInputs) -> None:
    (b, sb) = inputs.rhs
    inputs = GroupedInputs(inputs.lhs, (b[:, :16], sb), inputs.index, inputs.row_groups)
    with pytest.raises(ValueError, match=r"^fill is 0, but the epilogue quantises"):
        call(inputs, epilogue=epilogue.quantize_1x128(), fill=0)


def test_an_alignment_is_needed_where_groups_are_padded() -> None:
    """So the number reaches the result: without it, other rows are multiplied."""
    inputs = make_offsets_inputs([3, 5], 24, 144, alignment=8)
    is_right(offsets, inputs, alignment=8)
    out, check = poisoned_rows(inputs.row_groups >= 0, 24, BF16)
    offsets(inputs, out=out)
    with pytest.raises(AssertionError, match=r"outside the output, but written; the first at row 3,"):
        check()


def test_expected_rows_change_nothing() -> None:
    inputs = make_masked_inputs([4, 7], 8, 24, 144)
    results = [
        m_grouped_fp8_gemm_nt_masked(inputs.lhs, inputs.rhs, inputs.index, rows)[inputs.row_groups >= 0]
        for rows in (1, 8, 2**40)
    ]
    assert all(torch.equal(result, results[0]) for result in results)


def test_arguments_have_their_names() -> None:
    for layout, call in (
        ("contiguous", lambda lhs, rhs, x: m_grouped_fp8_gemm_nt_contiguous(lhs, rhs, group_index=x)),
        ("offsets", lambda lhs, rhs, x: m_grouped_fp8_gemm_nt_offsets(lhs, rhs, offsets=x)),
        ("masked", lambda lhs, rhs, x: m_grouped_fp8_gemm_nt_masked(lhs, rhs, valid_rows=x, expected_rows=5)),
    ):
        inputs = LAYOUTS[layout][1]
        result = call(inputs.lhs, inputs.rhs, inputs.index)
        assert_grouped_correct(result, inputs.lhs, inputs.rhs, inputs.row_groups)


def test_contiguous_alignment() -> None:
    """A group that starts at a multiple of it is right, whatever kernels there are."""
    assert contiguous_alignment() == 128
