"""Outputs that tell what a kernel wrote and what it should not have touched."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Quiet NaNs with payloads of our own: what arithmetic makes has all or one of the mantissa's bits set. Of
# e4m3, which has two NaNs, the negative one: conversions make the other.
_POISON = {
    torch.bfloat16: (torch.int16, 0x7FE5),
    torch.float32: (torch.int32, 0x7FE5C0DE),
    torch.float8_e4m3fn: (torch.uint8, 0xFF),
}


def poisoned(
    m: int,
    n: int,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    pad_rows: int = 3,
    pad_cols: int = 16,
) -> tuple[Tensor, Callable[[], None]]:
    """An ``[m, n]`` output full of NaN inside a larger buffer full of NaN, and the check for afterwards.

    As :func:`poisoned_rows`, for an output of which every row is to be written.

    Args:
        m, n: rows and columns.
        dtype: bf16, fp32 or e4m3.
        device: where it is.
        pad_rows, pad_cols: width of the guard band, on every side.

    Returns:
        As :func:`poisoned_rows`.

    Raises:
        TypeError: another dtype.
    """
    every_row = torch.ones(m, dtype=torch.bool, device=device)
    return poisoned_rows(every_row, n, dtype, pad_rows, pad_cols)


def poisoned_rows(
    is_written: Tensor, n: int, dtype: torch.dtype, pad_rows: int = 3, pad_cols: int = 16
) -> tuple[Tensor, Callable[[], None]]:
    """An output full of NaN, of which some rows are to be written, inside a larger buffer full of NaN.

    The default bands keep the alignment that TMA asks for when ``n`` is a multiple of 8, or of 16 of e4m3.

    Args:
        is_written: bool ``[M]`` for an output ``[M, n]``, or ``[G, capacity]`` for one of ``[G, capacity,
            n]``: the rows to be written, such as ``row_groups >= 0``. The output is on its device.
        n: columns of the output.
        dtype: bf16, fp32 or e4m3.
        pad_rows, pad_cols: width of the guard band, on every side of each matrix.

    Returns:
        The output, a view with strides ``(n + 2 * pad_cols, 1)`` in the last two dimensions, and a function
        that raises AssertionError if an element of a row to be written was not, or any other element of the
        buffer was. It compares bits, so a NaN that was written counts like a number, unless it has the bits
        of the filling, which no arithmetic makes.

    Raises:
        TypeError: another dtype.
    """
    if dtype not in _POISON:
        raise TypeError(f"poisoned: dtype is {dtype}; want one of {', '.join(map(str, _POISON))}")
    integer, pattern = _POISON[dtype]
    *groups, m = is_written.shape
    padded = (*groups, m + 2 * pad_rows, n + 2 * pad_cols)
    bits = torch.full(padded, pattern, dtype=integer, device=is_written.device)
    inside = (..., slice(pad_rows, pad_rows + m), slice(pad_cols, pad_cols + n))
    view = bits.view(dtype)[inside]
    wanted = torch.zeros_like(bits, dtype=torch.bool)
    wanted[inside] = is_written[..., None]

    def check() -> None:
        for message, bad in (
            ("not written", (bits == pattern) & wanted),
            ("outside the output, but written", (bits != pattern) & ~wanted),
        ):
            if bad.any():
                *matrix, row, column = bad.nonzero()[0].tolist()
                where = "".join(f"matrix {group}, " for group in matrix)
                raise AssertionError(
                    f"{int(bad.sum())} elements {message}; the first at {where}row {row - pad_rows},"
                    f" column {column - pad_cols} of an output of shape {list(view.shape)}"
                )

    return view, check
