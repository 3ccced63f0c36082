"""Matrices of a call, and pieces of their rows, to and from registers; columns are contiguous."""

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, Uint32, const_expr

from ...plan.limits import MAX_EXTENT
from ...plan.quantizer import PIECE


def load(words: cute.Tensor, address: Int64):
    """Loads a piece into four 32-bit ``words``, from an address that is a multiple of its size."""
    pointer = cute.make_ptr(Uint32, address, cutlass.AddressSpace.gmem, assumed_align=PIECE)
    cute.autovec_copy(cute.make_tensor(pointer, cute.make_layout(PIECE // 4)), words)


def store(values: cute.Tensor, first: int, size: int, address: Int64):
    """Stores ``size`` of ``values`` with one instruction, to an address that is a multiple of what they take."""
    layout, width = cute.make_layout(size), values.element_type.width // 8
    pointer = cute.make_ptr(
        values.element_type, address, cutlass.AddressSpace.gmem, assumed_align=size * width
    )
    cute.autovec_copy(cute.make_tensor(values.iterator + first, layout), cute.make_tensor(pointer, layout))


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
