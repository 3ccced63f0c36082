"""What the host code of a quantiser checks before it launches; see :mod:`cute_gemm.kernels.preconditions`."""

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32, Int64, const_expr

from ...plan.limits import K_MULTIPLE, MAX_ALIGNMENT, MAX_EXTENT, MAX_GROUPS
from ...plan.quantizer import BLOCK, MAX_MATRICES, PIECE
from ..preconditions import are_apart, place_of


@cute.jit
def hold(
    inputs: tuple,
    results: tuple,
    heights: cutlass.Constexpr[tuple],
    is_of_groups: cutlass.Constexpr[bool] = False,
    columns: tuple = (),
) -> Boolean:
    """Whether tensors are in order without a closer look.

    Dtypes, devices, extents that must be equal, and contiguous columns are not checked here: a kernel is
    compiled for them, and the conversion of its arguments checks them.

    Args:
        inputs: what is read: matrices (rows, columns, matrices), vectors, and an alignment of groups.
        results: pairs of e4m3 and scales, both (rows, columns, matrices).
        heights: rows of each result that share a scale.
        is_of_groups: whether a vector has an element for each group, which are searched.
        columns: of the scales of each result; by default one for each 128 of its own.
    """
    fits = Boolean(True)
    for each in inputs:
        if const_expr(not isinstance(each, cute.Tensor)):
            fits = fits and each >= 1 and each <= MAX_ALIGNMENT
        elif const_expr(len(each.shape) == 3):
            fits = fits and are_aligned(each)
        else:
            fits = fits and each.shape[0] > 0
            if const_expr(is_of_groups):
                fits = fits and each.shape[0] <= MAX_GROUPS
    for matrices, scales in results:
        fits = fits and do_not_meet(matrices, scales)
        for each in inputs:
            if const_expr(isinstance(each, cute.Tensor)):
                fits = fits and do_not_meet(each, matrices) and do_not_meet(each, scales)
    if const_expr(len(columns) == 0):
        columns = tuple(cute.ceil_div(matrices.shape[1], BLOCK) for matrices, _ in results)
    for (matrices, scales), height, wanted in zip(results, heights, columns, strict=True):
        fits = fits and are_quantized(matrices) and are_scales(scales, matrices, height, wanted)
    return fits


@cute.jit
def are_edges(vector: cute.Tensor) -> Boolean:
    """Whether a vector says of as many groups as are searched where they begin, and where the last ends."""
    return vector.shape[0] > 1 and vector.shape[0] <= MAX_GROUPS + 1


@cute.jit
def are_quantized(matrices: cute.Tensor) -> Boolean:
    """Whether e4m3 matrices are of extents that kernels take, and lie one behind the other."""
    rows, columns, count = matrices.shape
    fits = rows > 0 and rows <= MAX_EXTENT and columns > 0 and columns <= MAX_EXTENT and count <= MAX_MATRICES
    fits = fits and columns % K_MULTIPLE == 0 and matrices.iterator.toint() != 0
    # As many CTAs as a grid holds, if each has eight rows of a block.
    fits = fits and Int64(cute.ceil_div(rows, 8)) * cute.ceil_div(columns, BLOCK) < 2**31
    return fits and are_apart(matrices) and are_aligned(matrices)


@cute.jit
def are_scales(
    scales: cute.Tensor, matrices: cute.Tensor, height: cutlass.Constexpr[int], wanted: Int32
) -> Boolean:
    """Whether scales of ``matrices`` have the ``wanted`` columns, and none lies where another does."""
    (rows, columns, count), (along_m, along_k, step) = scales.shape, scales.stride
    fits = rows == cute.ceil_div(matrices.shape[0], height)
    fits = fits and columns == wanted
    is_row_major = along_k == 1 and along_m >= columns
    is_m_major = along_m == 1 and along_k >= rows
    fits = fits and (is_row_major or is_m_major)
    if const_expr(not isinstance(count, int)):
        last = Int64(rows - 1) * Int64(along_m) + Int64(columns - 1) * Int64(along_k)
        fits = fits and (count == 1 or step > last)
    return fits


@cute.jit
def are_aligned(matrices: cute.Tensor) -> Boolean:
    """Whether each row begins at a multiple of what a thread loads at once."""
    rows, _, count = matrices.shape
    size = matrices.element_type.width // 8
    fits = matrices.iterator.toint() % PIECE == 0
    fits = fits and (rows == 1 or Int64(matrices.stride[0]) * size % PIECE == 0)
    if const_expr(not isinstance(count, int)):
        fits = fits and (count == 1 or Int64(matrices.stride[2]) * size % PIECE == 0)
    return fits


@cute.jit
def do_not_meet(read: cute.Tensor, written: cute.Tensor) -> Boolean:
    """Whether both have memory, and no byte lies within both, from their first to their last."""
    begin, end = place_of(as_three(written))
    first, behind = place_of(as_three(read))
    return begin != 0 and first != 0 and (end <= first or behind <= begin)


def as_three(tensor: cute.Tensor) -> cute.Tensor:
    """A vector as (rows, columns, matrices); matrices as they are."""
    if len(tensor.shape) == 3:
        return tensor
    layout = cute.make_layout((1, tensor.shape[0], 1), stride=(0, 1, 0))
    return cute.make_tensor(tensor.iterator, layout)
