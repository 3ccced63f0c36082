"""Grouped inputs are what they say, and their judge finds what is wrong in any group."""

import functools

import pytest
import torch

from cute_gemm.quantize import dequantize_1x128, dequantize_128x128
from cute_gemm.reference import fp8_gemm_nt
from cute_gemm.testing import (
    INPUT_KINDS,
    GroupedInputs,
    assert_correct,
    assert_grouped_correct,
    make_contiguous_inputs,
    make_inputs,
    make_masked_inputs,
    make_offsets_inputs,
)

SIZES = [3, 0, 130, 64]

INPUTS = {
    "contiguous": make_contiguous_inputs(SIZES, 136, 144, order=[2, 1, 3, 0], m=600),
    "offsets": make_offsets_inputs(SIZES, 136, 144, alignment=8, m=300),
    "masked": make_masked_inputs(SIZES, 140, 136, 144),
}
every_layout = pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)


def runs(row_groups: torch.Tensor) -> list[tuple[int, int]]:
    """Group and length of each run of equal groups."""
    values, lengths = row_groups.unique_consecutive(return_counts=True)
    return list(zip(values.tolist(), lengths.tolist(), strict=True))


def test_contiguous_groups_are_padded_to_whole_blocks() -> None:
    inputs = INPUTS["contiguous"]
    want = [(2, 130), (-1, 126), (3, 64), (-1, 64), (0, 3), (-1, 213)]
    assert runs(inputs.row_groups) == want
    assert torch.equal(inputs.index, inputs.row_groups)
    assert inputs.index.data_ptr() != inputs.row_groups.data_ptr()
    assert runs(make_contiguous_inputs([2, 1], 8, 16).row_groups) == [(0, 2), (-1, 126), (1, 1), (-1, 127)]


def test_groups_by_offsets_are_aligned() -> None:
    inputs = INPUTS["offsets"]
    assert runs(inputs.row_groups) == [(0, 3), (-1, 5), (2, 130), (-1, 6), (3, 64), (-1, 92)]
    assert inputs.index.tolist() == [3, 8, 138, 208]
    plain = make_offsets_inputs(SIZES, 8, 16)
    assert runs(plain.row_groups) == [(0, 3), (2, 130), (3, 64)]
    assert plain.index.tolist() == [3, 3, 133, 197]


def test_masked_groups_come_first_in_their_matrices() -> None:
    inputs = INPUTS["masked"]
    assert inputs.index.tolist() == SIZES
    assert [runs(group) for group in inputs.row_groups] == [
        [(0, 3), (-1, 137)], [(-1, 140)], [(2, 130), (-1, 10)], [(3, 64), (-1, 76)],
    ]  # fmt: skip


@every_layout
def test_rows_of_no_group_are_nan_and_others_are_not(inputs: GroupedInputs) -> None:
    (a, sa), (b, sb) = inputs.lhs, inputs.rhs
    assert inputs.index.dtype is inputs.row_groups.dtype is torch.int32
    assert a.shape == (*inputs.row_groups.shape, 144)
    assert sa.shape == (*inputs.row_groups.shape, 2)
    assert b.shape == (4, 136, 144)
    assert sb.shape == (4, 2, 2)
    for x in (a.float(), sa):
        assert torch.equal(x.isnan().any(-1), inputs.row_groups < 0)
        assert torch.equal(x.isnan().all(-1), inputs.row_groups < 0)
    assert dequantize_128x128(b, sb).isfinite().all()
    assert not dequantize_1x128(a, sa)[inputs.row_groups < 0].isfinite().any()


@pytest.mark.parametrize("kind", INPUT_KINDS)
def test_each_group_is_of_its_kind(kind: str) -> None:
    inputs = make_masked_inputs([5, 6], 6, 24, 144, kind, seed=3)
    for group, size in enumerate([5, 6]):
        (x, sx), (w, sw) = make_inputs(size, 24, 144, kind, seed=3 * 2 + group)
        assert torch.equal(inputs.lhs[0][group, :size].view(torch.uint8), x.view(torch.uint8))
        assert torch.equal(inputs.lhs[1][group, :size], sx)
        assert torch.equal(inputs.rhs[0][group].view(torch.uint8), w.view(torch.uint8))
        assert torch.equal(inputs.rhs[1][group], sw)


def test_groups_and_seeds_differ() -> None:
    first = [make_masked_inputs([2, 2], 2, 8, 16, seed=seed).lhs[0].view(torch.uint8) for seed in (0, 1)]
    groups = [group.tolist() for seed in first for group in seed]
    assert all(groups.count(group) == 1 for group in groups)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="m is 127; want at least 128, where the last group ends"):
        make_contiguous_inputs([1], 8, 16, m=127)
    with pytest.raises(ValueError, match="m is 12; want at least 13"):
        make_offsets_inputs([3, 5], 8, 16, alignment=8, m=12)
    with pytest.raises(ValueError, match="a group has 5 rows; want at most the capacity, 4"):
        make_masked_inputs([3, 5], 4, 8, 16)


def right(inputs: GroupedInputs, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The result, NaN in rows of no group; it may be changed."""
    return computed(inputs, dtype).clone()


def take(a: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``a[rows]``, which torch 2.8 does not do for e4m3 on a CPU."""
    return a.view(torch.uint8)[rows].view(a.dtype)


@functools.cache
def computed(inputs: GroupedInputs, dtype: torch.dtype) -> torch.Tensor:
    (a, sa), (b, sb) = inputs.lhs, inputs.rhs
    out = torch.full((*inputs.row_groups.shape, b.shape[1]), torch.nan, dtype=dtype)
    for group in range(len(b)):
        rows = inputs.row_groups == group
        out[rows] = fp8_gemm_nt(take(a, rows), sa[rows], b[group], sb[group], dtype)
    return out


@every_layout
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_right_results_pass_and_the_worst_error_is_told(inputs: GroupedInputs, dtype: torch.dtype) -> None:
    (a, sa), (b, sb) = inputs.lhs, inputs.rhs
    out = right(inputs, dtype)
    worst = 0.0
    for group in (0, 2, 3):
        rows = inputs.row_groups == group
        worst = max(worst, assert_correct(out[rows], take(a, rows), sa[rows], b[group], sb[group]))
    assert assert_grouped_correct(out, inputs.lhs, inputs.rhs, inputs.row_groups) == worst > 0


@every_layout
@pytest.mark.parametrize("group", [0, 2, 3])
@pytest.mark.parametrize("damage", ["zero", "nan", "another group", "another row"])
def test_one_wrong_row_is_found(inputs: GroupedInputs, group: int, damage: str) -> None:
    (a, sa), (b, sb) = inputs.lhs, inputs.rhs
    out = right(inputs)
    *_, last = (inputs.row_groups == group).nonzero().tolist()
    here = tuple(last)
    other = (group + 1) % 4
    out[here] = {
        "zero": torch.zeros(136),
        "nan": torch.full((136,), torch.nan),
        "another group": fp8_gemm_nt(a[here][None], sa[here][None], b[other], sb[other], torch.float32)[0],
        "another row": out[(*here[:-1], here[-1] - 1)],
    }[damage]
    with pytest.raises(AssertionError, match=rf"^group {group} of {SIZES[group]} rows: (tile|element) \("):
        assert_grouped_correct(out, inputs.lhs, inputs.rhs, inputs.row_groups)


@every_layout
def test_the_shape_of_the_result_must_fit(inputs: GroupedInputs) -> None:
    out = right(inputs)
    with pytest.raises(ValueError, match=r"out has shape .*; want \[.*, 136\] for row_groups and b"):
        assert_grouped_correct(out[..., :128], inputs.lhs, inputs.rhs, inputs.row_groups)
    with pytest.raises(ValueError, match="out has shape"):
        assert_grouped_correct(out[None], inputs.lhs, inputs.rhs, inputs.row_groups)
