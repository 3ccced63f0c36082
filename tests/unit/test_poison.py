"""A poisoned output tells what was written and what should not have been."""

import pytest
import torch

from cute_gemm.testing import poisoned

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


def test_poison_of_another_dtype():
    with pytest.raises(TypeError, match=r"is torch\.float16"):
        poisoned(1, 8, torch.float16)
