"""Pieces of rows, to and from registers, of (rows, columns, matrices) whose columns are contiguous."""

import cutlass
import cutlass.cute as cute
from cutlass import Int64, Uint32

from ...plan.quantizer import PIECE


def load(words: cute.Tensor, source: cute.Tensor, place: tuple):
    """Loads a piece into four 32-bit ``words``, from a place that is a multiple of its size."""
    pointer = cute.make_ptr(Uint32, address_of(source, place), cutlass.AddressSpace.gmem, assumed_align=PIECE)
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


def address_of(tensor: cute.Tensor, place: tuple) -> Int64:
    """Of an element; computed in 64 bits whatever the strides are."""
    row, column, matrix = place
    offset = Int64(row) * tensor.stride[0] + column
    if not isinstance(tensor.shape[2], int):
        offset += Int64(matrix) * tensor.stride[2]
    return tensor.iterator.toint() + offset * (tensor.element_type.width // 8)
