"""A poisoned output tells what was written and what should not have been."""

import pytest
import torch

from cute_gemm.testing import poisoned, poisoned_rows

dtypes = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])


@dtypes
def test_poison_sees_what_was_and_was_not_written(dtype):
    view, check = poisoned(5, 24, dtype)
    assert view.shape == (5, 24)
    assert view.dtype == dtype
    assert view.isnan().all()
    assert view.stride(1) == 1
    assert view.data_ptr() % 16 == 0
    assert view.stride(0) * view.element_size() % 16 == 0
    with pytest.raises(AssertionError, match="120 elements not written; the first at row 0, column 0"):
        check()
    view.copy_(torch.randn(5, 24))
    check()
    view.fill_(torch.nan)
    check()
    _, check = poisoned(0, 8, dtype)
    check()


@dtypes
@pytest.mark.parametrize("value", [1.0, torch.nan])
@pytest.mark.parametrize(("row", "column"), [(-1, 0), (5, 23), (0, -1), (4, 24), (-3, -16), (7, 39)])
def test_poison_sees_a_touched_band(dtype, value, row, column):
    view, check = poisoned(5, 24, dtype)
    view.zero_()
    view.as_strided((1,), (1,), view.storage_offset() + row * view.stride(0) + column).fill_(value)
    with pytest.raises(AssertionError, match=f"1 elements outside the output.* row {row}, column {column} "):
        check()


@dtypes
def test_poison_sees_one_missing_element(dtype):
    view, check = poisoned(5, 24, dtype)
    view[:4] = 1
    view[4, :23] = 1
    with pytest.raises(AssertionError, match="1 elements not written; the first at row 4, column 23"):
        check()


def test_poison_of_e4m3_is_no_nan_that_is_made():
    view, check = poisoned(5, 32, torch.float8_e4m3fn)
    assert view.stride() == (64, 1)
    with pytest.raises(AssertionError, match="160 elements not written"):
        check()
    view.copy_(torch.full((5, 32), torch.nan))
    check()
    view[4:, 31:].view(torch.uint8).fill_(0xFF)
    with pytest.raises(AssertionError, match="1 elements not written; the first at row 4, column 31"):
        check()


SOME_ROWS = {
    "one matrix": [True, False, True, True, False],
    "two matrices": [[True, False, False], [True, True, False]],
    "no row": [False, False],
}


@dtypes
@pytest.mark.parametrize("is_written", SOME_ROWS.values(), ids=SOME_ROWS)
def test_poison_of_some_rows(dtype, is_written):
    is_written = torch.tensor(is_written)
    view, check = poisoned_rows(is_written, 24, dtype)
    assert view.shape == (*is_written.shape, 24)
    assert view.dtype == dtype
    assert view.isnan().all()
    assert view.stride()[-2:] == (24 + 32, 1)
    if is_written.any():
        count = 24 * int(is_written.sum())
        with pytest.raises(AssertionError, match=f"{count} elements not written; the first at .*row 0,"):
            check()
    view[is_written] = 1
    check()
    *matrix, row = (~is_written).nonzero()[-1].tolist()
    view[(*matrix, row, 5)] = 1
    where = "".join(f"matrix {i}, " for i in matrix) + f"row {row}, column 5 of an output of shape"
    with pytest.raises(AssertionError, match=f"1 elements outside the output, but written; .* at {where}"):
        check()


def test_poison_between_matrices_is_seen():
    view, check = poisoned_rows(torch.ones(2, 3, dtype=torch.bool), 8, torch.float32)
    view.fill_(1)
    check()
    # A fourth row of the first matrix.
    view.as_strided((8,), (1,), view.storage_offset() + 3 * view.stride(1)).fill_(1)
    with pytest.raises(AssertionError, match=r"8 elements outside .* at matrix 0, row 3, column 0 of"):
        check()


def test_poison_of_another_dtype():
    with pytest.raises(TypeError, match=r"is torch\.float16"):
        poisoned(1, 8, torch.float16)
