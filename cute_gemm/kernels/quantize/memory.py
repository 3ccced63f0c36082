"""Matrices of a call, and pieces of their rows, to and from registers; columns are contiguous."""

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32, Int64, Uint32, const_expr

from ...plan.limits import MAX_EXTENT
from ...plan.quantizer import PIECE


def load(words: cute.Tensor, source: cute.Tensor, place: tuple):
    """Loads a piece into four 32-bit ``words``, from a place that is a multiple of its size."""
    load_from(words, address_of(source, place))


def load_from(words: cute.Tensor, address: Int64):
    """Loads a piece into four 32-bit ``words``, from an address that is a multiple of its size."""
    pointer = cute.make_ptr(Uint32, address, cutlass.AddressSpace.gmem, assumed_align=PIECE)
    cute.autovec_copy(cute.make_tensor(pointer, cute.make_layout(PIECE // 4)), words)


@cute.jit
def store(
    values: cute.Tensor, first: cutlass.Constexpr[int], size: cutlass.Constexpr[int], target, place: tuple
):
    """Stores ``size`` of ``values`` with one instruction, to a place that is a multiple of what they take."""
    layout, width = cute.make_layout(size), values.element_type.width // 8
    address = address_of(target, place)
    pointer = cute.make_ptr(
        values.element_type, address, cutlass.AddressSpace.gmem, assumed_align=size * width
    )
    cute.autovec_copy(cute.make_tensor(values.iterator + first, layout), cute.make_tensor(pointer, layout))


def store_if(is_there: Boolean, values: cute.Tensor, address: Int64):
    """Where something is there, stores values of 4, 8 or 16 bytes with one instruction, without a branch.

    In each of several branches, the compiler would compute an address anew.

    Args:
        is_there: whether to store.
        values: in registers.
        address: a multiple of their size.
    """
    words = cute.recast_tensor(values, Uint32)
    count = cute.size(words)
    named = ", ".join(f"{{$r{1 + i}}}" for i in range(count))
    shape, named = (f".v{count}", f"{{{named}}}") if count > 1 else ("", named)
    cute.arch.inline_ptx(
        f"st.global{shape}.b32 [{{$r0}}], {named};",
        read_only_args=[address, *(words[i] for i in range(count))],
        predicate=is_there,
    )


def address_of(tensor: cute.Tensor, place: tuple) -> Int64:
    """Of an element of a matrix; computed in 64 bits whatever the strides are."""
    row, column = place
    offset = Int64(row) * tensor.stride[0] + column
    return tensor.iterator.toint() + offset * (tensor.element_type.width // 8)


def matrix_of(tensor: cute.Tensor, matrix: Int32) -> cute.Tensor:
    """One of (rows, columns, matrices), as (rows, columns)."""
    layout, pointer = cute.select(tensor.layout, mode=[0, 1]), tensor.iterator
    if not isinstance(tensor.shape[2], int):
        pointer = pointer + Int64(matrix) * tensor.stride[2]
    return cute.make_tensor(pointer, layout)


def up_to(matrix: cute.Tensor, end: Int32, mode: int) -> cute.Tensor:
    """The rows of a matrix, or its columns (``mode`` 1), in front of ``end``."""
    shape = (end, matrix.shape[1]) if mode == 0 else (matrix.shape[0], end)
    return cute.make_tensor(matrix.iterator, cute.make_layout(shape, stride=matrix.stride))


@cute.jit
def merged(tensors: tuple) -> tuple:
    """The same (rows, columns, matrices) as one matrix, if rows of all tensors follow each other as in one.

    So that matrices of a few rows, as a decoder has them, do not leave most of a CTA's threads without work.
    """
    if const_expr(isinstance(tensors[0].shape[2], int)):
        return tensors
    rows, _, count = tensors[0].shape
    follow = Int64(rows) * Int64(count) <= MAX_EXTENT
    for each in tensors:
        step = Int64(each.shape[0]) * Int64(each.stride[0])
        follow = follow and (rows == 1 or Int64(each.stride[2]) == step)
    found = ()
    for each in tensors:
        step = cutlass.select_(follow and rows == 1, Int64(each.stride[2]), Int64(each.stride[0]))
        shape = (
            Int32(cutlass.select_(follow, rows * count, rows)),
            each.shape[1],
            Int32(cutlass.select_(follow, Int32(1), count)),
        )
        layout = cute.make_layout(shape, stride=(step, each.stride[1], each.stride[2]))
        found += (cute.make_tensor(each.iterator, layout),)
    return found
