"""What a kernel's host code checks before it launches: the fast path, without a word about what is wrong.

It must not accept what :mod:`cute_gemm.contract` refuses; it may decline what that accepts.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32, Int64, const_expr

from ..plan.limits import (
    K_MULTIPLE,
    MAX_ALIGNMENT,
    MAX_EXTENT,
    MAX_GROUPS,
    MAX_SCALE_SPAN,
    N_MULTIPLE,
    STRIDE_END,
)
from ..plan.recipe import Recipe


@cute.jit
def hold(
    recipe: cutlass.Constexpr[Recipe], mA, mSFA, mB, mSFB, mD, grouping, scale_columns: Int32 | None = None
) -> Boolean:
    """Whether operands (rows, columns, matrices) are in order without a closer look.

    Where this is false a call may be in order all the same, such as one whose ``out`` interleaves with an
    operand. Dtypes, devices, alignment, extents that must be equal, and contiguous rows are not checked here:
    a kernel is compiled for them, and the conversion of its arguments checks them. Nobody checks here what a
    value brings: its tensors, and the columns of D where it makes fewer than B has rows.

    Args:
        recipe: that the kernel is for.
        mA, mSFA, mB, mSFB, mD: operands, their scales, and the result.
        grouping: what the scheduler takes to say which rows are whose.
        scale_columns: of scales, if not one for each k-block of K as a whole.
    """
    (m, k), n = (mA.shape[0], mA.shape[1]), mB.shape[0]
    fits = (
        m <= MAX_EXTENT
        and n <= MAX_EXTENT
        and k <= MAX_EXTENT
        and k % K_MULTIPLE == 0
        and n % N_MULTIPLE == 0
    )
    fits = fits and mB.shape[2] <= MAX_GROUPS
    if const_expr(scale_columns is None):
        scale_columns = cute.ceil_div(k, recipe.scale_k)
    fits = fits and mSFA.shape[1] == scale_columns
    fits = fits and mSFB.shape[0] == cute.ceil_div(n, recipe.scale_n)
    for matrices in (mA, mB, mD):
        fits = fits and are_apart(matrices)
    for scales in (mSFA, mSFB):
        fits = fits and last_of(scales) <= MAX_SCALE_SPAN
    begin, end = place_of(mD)
    fits = fits and begin != 0
    for operand in (mA, mSFA, mB, mSFB):
        first, behind = place_of(operand)
        fits = fits and first != 0 and (end <= first or behind <= begin)
    for each in grouping:
        if const_expr(isinstance(each, cute.Tensor)):
            first = each.iterator.toint()
            behind = first + Int64(each.shape[0]) * (each.element_type.width // 8)
            fits = fits and first != 0 and (end <= first or behind <= begin)
        else:
            fits = fits and each >= 1 and each <= MAX_ALIGNMENT
    return fits


@cute.jit
def are_apart(matrices: cute.Tensor) -> Boolean:
    """Whether rows and matrices lie one behind the other, by strides that a tensor map holds."""
    rows, width, count = matrices.shape
    most = STRIDE_END * 8 // matrices.element_type.width
    fits = matrices.stride[0] >= width and matrices.stride[0] < most
    if const_expr(not isinstance(count, int)):
        step = Int64(matrices.stride[2])
        one = Int64(rows - 1) * Int64(matrices.stride[0]) + width
        fits = fits and (count == 1 or (step >= one and step < most))
    return fits


def last_of(matrices: cute.Tensor) -> Int64:
    """Elements from the first of all matrices to the last."""
    rows, columns, matrix = (Int64(matrices.shape[i] - 1) * Int64(matrices.stride[i]) for i in range(3))
    return rows + columns + matrix


def place_of(matrices: cute.Tensor) -> tuple[Int64, Int64]:
    """The address of the first byte of all matrices, and that behind the last."""
    begin = matrices.iterator.toint()
    return begin, begin + (last_of(matrices) + 1) * (matrices.element_type.width // 8)


def report(address: Int64, value: Int32):
    """Writes ``value`` to ``address``, in the host's memory."""
    pointer = cute.make_ptr(Int32, address, cutlass.AddressSpace.generic, assumed_align=4)
    cute.make_tensor(pointer, cute.make_layout(1))[0] = value
