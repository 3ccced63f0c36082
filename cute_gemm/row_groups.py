"""Which row belongs to which group, in plain torch: the layouts of grouped operations, as kernels see them.

Each function gives the group of every row of the result, int32, and -1 for a row that is not written. They
run on any device without making the host wait, and take the index as it comes: whatever it holds, they say
what becomes of it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from .plan.limits import CONTIGUOUS_ALIGNMENT


def contiguous_row_groups(group_index: Tensor, count: int, m: int, groups: int) -> Tensor:
    """Rows by a group for each: a block of 128 has the group of its first row, up to its first padding.

    Args:
        group_index: int32 ``[M]``; negative for padding.
        count: of no meaning here.
        m: the number of rows.
        groups: their number. A block of a group beyond it is padding.

    Returns:
        int32 ``[M]``.
    """
    blocks = pad(group_index, (0, -m % CONTIGUOUS_ALIGNMENT), value=-1).view(-1, CONTIGUOUS_ALIGNMENT)
    first = blocks[:, :1]
    is_written = ((blocks < 0).cumsum(1) == 0) & (first < groups)
    return torch.where(is_written, first, -1).flatten()[:m]


def offsets_row_groups(offsets: Tensor, alignment: int, m: int, groups: int) -> Tensor:
    """Rows by the end of each group; a group starts at the end before it, rounded up to ``alignment``.

    Args:
        offsets: int32 ``[G]``. Ends outside of 0..M are clamped to it; a group that ends at its start or
            before is empty. A row that several groups claim is the first one's, where a kernel may give it
            to any.
        alignment: 1 to 1024.
        m: the number of rows.
        groups: their number, G.

    Returns:
        int32 ``[M]``.
    """
    ends = offsets.clamp(0, m)
    starts = (pad(ends[:-1], (1, 0)) + alignment - 1) // alignment * alignment
    row = torch.arange(m, dtype=torch.int32, device=offsets.device)
    is_inside = (starts[:, None] <= row) & (row < ends[:, None])
    return torch.where(is_inside.any(0), is_inside.byte().argmax(0), -1).int()


def masked_row_groups(valid_rows: Tensor, expected_rows: int, capacity: int, groups: int) -> Tensor:
    """Rows of one matrix for each group, of which the first are valid.

    Args:
        valid_rows: int32 ``[G]``; clamped to 0..capacity.
        expected_rows: of no meaning here.
        capacity: rows of each matrix.
        groups: their number, G.

    Returns:
        int32 ``[G, capacity]``.
    """
    row, group = (
        torch.arange(count, dtype=torch.int32, device=valid_rows.device) for count in (capacity, groups)
    )
    return torch.where(row < valid_rows[:, None], group[:, None], -1)
