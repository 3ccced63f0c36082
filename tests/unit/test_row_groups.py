"""Whose row is whose, against the definition of each layout, for any index."""

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from cute_gemm.row_groups import contiguous_row_groups, masked_row_groups, offsets_row_groups


def int32(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def by_blocks(group_index: list[int], groups: int) -> list[int]:
    """The group of each row: that of its block's first row, until the first row of padding."""
    result = []
    for start in range(0, len(group_index), 128):
        group = group_index[start]
        is_written = 0 <= group < groups
        for index in group_index[start : start + 128]:
            is_written = is_written and index >= 0
            result.append(group if is_written else -1)
    return result


def claims(offsets: list[int], alignment: int, m: int) -> list[set[int]]:
    """The groups that claim each row."""
    rows: list[set[int]] = [set() for _ in range(m)]
    start = 0
    for group, end in enumerate(offsets):
        end = min(max(end, 0), m)
        for row in range(start, end):
            rows[row].add(group)
        start = -(-end // alignment) * alignment
    return rows


anything = st.integers(-(2**31), 2**31 - 1)
indices = st.one_of(st.sampled_from([-1, 0, 1, 2]), anything)


@settings(max_examples=60, deadline=None)
@given(
    runs=st.lists(st.tuples(indices, st.sampled_from([1, 5, 64, 127, 128, 129])), max_size=8),
    groups=st.integers(1, 4),
)
def test_contiguous(runs: list[tuple[int, int]], groups: int) -> None:
    group_index = [index for index, length in runs for _ in range(length)]
    result = contiguous_row_groups(int32(group_index), 0, len(group_index), groups)
    assert result.dtype is torch.int32
    assert result.tolist() == by_blocks(group_index, groups)


@settings(max_examples=200, deadline=None)
@given(
    offsets=st.lists(st.one_of(st.integers(-3, 70), anything), min_size=1, max_size=8),
    alignment=st.sampled_from([1, 2, 7, 32, 1024]),
    m=st.integers(0, 64),
    in_order=st.booleans(),
)
def test_offsets(offsets: list[int], alignment: int, m: int, in_order: bool) -> None:
    offsets = sorted(offsets) if in_order else offsets
    result = offsets_row_groups(int32(offsets), alignment, m, len(offsets))
    assert result.dtype is torch.int32
    claimed = claims(offsets, alignment, m)
    assert result.tolist() == [min(groups, default=-1) for groups in claimed]
    if in_order:
        assert all(len(groups) <= 1 for groups in claimed)


@settings(max_examples=60, deadline=None)
@given(
    valid_rows=st.lists(st.one_of(st.integers(-2, 20), anything), min_size=1, max_size=5),
    capacity=st.integers(0, 16),
)
def test_masked(valid_rows: list[int], capacity: int) -> None:
    result = masked_row_groups(int32(valid_rows), 1, capacity, len(valid_rows))
    assert result.dtype is torch.int32
    assert result.tolist() == [
        [group if row < valid else -1 for row in range(capacity)] for group, valid in enumerate(valid_rows)
    ]
