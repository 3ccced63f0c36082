"""Outputs that tell what a kernel wrote and what it should not have touched."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Quiet NaNs with payloads of our own: what arithmetic makes has all or one of the mantissa's bits set.
_POISON = {torch.bfloat16: (torch.int16, 0x7FE5), torch.float32: (torch.int32, 0x7FE5C0DE)}


def poisoned(
    m: int,
    n: int,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    pad_rows: int = 3,
    pad_cols: int = 16,
) -> tuple[Tensor, Callable[[], None]]:
    """An ``[m, n]`` output full of NaN inside a larger buffer full of NaN, and the check for afterwards.

    The default bands keep the alignment that TMA asks for when ``n`` is a multiple of 8.

    Args:
        m, n: size of the output.
        dtype: bf16 or fp32.
        device: where it lives.
        pad_rows, pad_cols: width of the guard band, on every side.

    Returns:
        The output, a view with strides ``(n + 2 * pad_cols, 1)``, and a function that raises AssertionError
        if an element of the view was not written or one of the bands was. It compares bits, so a NaN that was
        written counts like a number, unless it has the bits of the filling, which no arithmetic makes.

    Raises:
        TypeError: another dtype.
    """
    if dtype not in _POISON:
        raise TypeError(f"poisoned: dtype is {dtype}; want torch.bfloat16 or torch.float32")
    integer, pattern = _POISON[dtype]
    bits = torch.full((m + 2 * pad_rows, n + 2 * pad_cols), pattern, dtype=integer, device=device)
    view = bits.view(dtype)[pad_rows : pad_rows + m, pad_cols : pad_cols + n]
    inside = torch.zeros_like(bits, dtype=torch.bool)
    inside[pad_rows : pad_rows + m, pad_cols : pad_cols + n] = True

    def check() -> None:
        for message, bad in (
            ("not written", (bits == pattern) & inside),
            ("outside the output, but written", (bits != pattern) & ~inside),
        ):
            if bad.any():
                row, column = divmod(int(bad.int().argmax()), bad.shape[1])
                raise AssertionError(
                    f"{int(bad.sum())} elements {message}; the first at row {row - pad_rows},"
                    f" column {column - pad_cols} of an output of shape [{m}, {n}]"
                )

    return view, check
