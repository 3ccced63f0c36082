"""Host code of a kernel: whether a call obeys the rules of checks.py in the plainest way there is."""

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32, Int64

from ..plan.problem import BLOCK_K, MAX_EXTENT, MAX_SCALE_SPAN, STRIDE_END


@cute.jit
def is_plain(mA, mSFA, mB, mSFB, mD) -> Boolean:
    """Whether a product of these matrices (rows, columns, 1) need not be looked at any further.

    What is not plain may be in order all the same, such as an ``out`` that interleaves with an operand.
    Whoever calls has seen to dtypes, devices, alignment, extents that must be equal, and rows that are
    contiguous: those a kernel is compiled for.
    """
    (m, k), n = (mA.shape[0], mA.shape[1]), mB.shape[0]
    fits = m <= MAX_EXTENT and n <= MAX_EXTENT and k <= MAX_EXTENT and k % 16 == 0 and n % 8 == 0
    fits = fits and mSFA.shape[1] == cute.ceil_div(k, BLOCK_K) and mSFB.shape[0] == cute.ceil_div(n, BLOCK_K)
    begin, end = place_of(mD)
    fits = fits and begin != 0
    for matrix in (mA, mB, mD):
        least, most = matrix.shape[1], STRIDE_END * 8 // matrix.element_type.width
        fits = fits and matrix.stride[0] >= least and matrix.stride[0] < most
    for scales in (mSFA, mSFB):
        fits = fits and last_of(scales) <= MAX_SCALE_SPAN
    for operand in (mA, mSFA, mB, mSFB):
        first, behind = place_of(operand)
        fits = fits and first != 0 and (end <= first or behind <= begin)
    return fits


def last_of(matrix: cute.Tensor) -> Int64:
    """Elements from the first of a matrix to the last."""
    rows, columns = (Int64(matrix.shape[i] - 1) * Int64(matrix.stride[i]) for i in range(2))
    return rows + columns


def place_of(matrix: cute.Tensor) -> tuple[Int64, Int64]:
    """The address of the first byte of a matrix, and that behind its last."""
    begin = matrix.iterator.toint()
    return begin, begin + (last_of(matrix) + 1) * (matrix.element_type.width // 8)


def tell(address: Int64, value: Int32):
    """Writes ``value`` to ``address``, in the host's memory."""
    pointer = cute.make_ptr(Int32, address, cutlass.AddressSpace.generic, assumed_align=4)
    cute.make_tensor(pointer, cute.make_layout(1))[0] = value
