"""A tile's e4m3 values handed through shared memory, so that threads that have rows store columns.

Columns lie one behind the other there, each of 32 words of four rows, which is what a thread has of a column.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Float8E4M3FN, Int32, Int64, Uint32, const_expr

from ...plan.quantizer import PIECE
from .elements import to_e4m3
from .memory import address_of, store_if
from .tile import LANES, ROWS, SIDE, THREADS, TilePart

WORDS = SIDE // ROWS
"""Of a column."""

TOGETHER = PIECE // ROWS
"""Words of a column that a thread stores at once."""

Words = cute.struct.Align[cute.struct.MemRange[Int32, SIDE * WORDS], PIECE]
"""Shared memory of a tile, as a field of a ``cute.struct``."""


def layout() -> cute.Layout:
    """Of shared memory: columns by words of four rows."""
    return cute.make_layout((SIDE, WORDS), stride=(WORDS, 1))


def place_of(word: Int32, lane: Int32) -> Int32:
    """Where in its column a word is: words that are stored at once stay together, and lanes apart.

    So words that a warp writes lie in as many banks as there are, and so do those that eight lanes read.

    Args:
        word: its number, a word for four rows.
        lane: the one of a row's eight that has the column.
    """
    return word ^ (lane * TOGETHER)


def mask_of(count: Int32) -> Int32:
    """What keeps the first ``count`` bytes of a word: where a scale is NaN, zeros became NaN, too."""
    half = (ROWS - cutlass.max(cutlass.min(count, ROWS), 0)) * 4
    return Int32(Uint32(0xFFFFFFFF) >> half >> half)  # in two steps, as by 32 is not defined


@cute.jit
def put(pointer, part: TilePart, thread: Int32, values, piece: cutlass.Constexpr[int], inverses: list):
    """Quantises FP32 ``values`` (columns, rows) of a piece, and writes them to shared memory.

    Args:
        pointer: to its first word.
        inverses: of the scale of each of these columns.
    """
    words = cute.make_tensor(pointer, layout())
    place = place_of(thread // LANES, part.lane)
    quantized = cute.make_rmem_tensor(ROWS, Float8E4M3FN)
    column = (part.lane + piece * LANES) * part.piece
    for j in cutlass.range_constexpr(part.piece):
        to_e4m3(values[j, None], inverses[j], quantized)
        words[column + j, place] = cute.recast_tensor(quantized, Int32)[0]


@cute.jit
def store(pointer, part: TilePart, thread: Int32, matrix, first: Int32, count, k_tile: Int32):
    """Stores what is in shared memory: eight lanes a column at a time, each of them sixteen rows.

    Args:
        pointer: to its first word.
        matrix: e4m3 (K, M), M contiguous.
        first: where the tile's rows begin in M.
        count: of rows; those behind become zeros. None where rows come in whole pieces.
        k_tile: number of the tile along K.
    """
    own, together = cute.make_rmem_tensor(TOGETHER, Int32), cute.make_layout(TOGETHER)
    row = first + part.lane * PIECE
    at = address_of(matrix, (k_tile * SIDE + thread // LANES, row))
    step = Int64(matrix.stride[0]) * (THREADS // LANES)
    if const_expr(count is not None):
        masks = [mask_of(count - part.lane * PIECE - ROWS * word) for word in range(TOGETHER)]
    for i in cutlass.range_constexpr(SIDE // (THREADS // LANES)):
        column = thread // LANES + i * (THREADS // LANES)
        place = place_of(part.lane * TOGETHER, column // part.piece % LANES)
        shared = cute.make_ptr(
            Int32,
            (pointer + column * WORDS + place).toint(),
            cutlass.AddressSpace.smem,
            assumed_align=PIECE,
        )
        cute.autovec_copy(cute.make_tensor(shared, together), own)
        if const_expr(count is not None):
            for word in cutlass.range_constexpr(TOGETHER):
                own[word] = own[word] & masks[word]
        is_there = (row < matrix.shape[1]) & (k_tile * SIDE + column < matrix.shape[0])
        store_if(is_there, own, at)
        at += step
