"""Quantises matrices 1x128 along their rows and, transposed, along their columns; each is read once.

A weight's gradient sums over tokens, so both of its operands have scales along tokens, and are stored with
tokens contiguous. A CTA has 128 x 128 elements in registers, writes them as they lie, and hands words of four
rows to the threads that have whole columns through shared memory.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float8E4M3FN, Float32, Int32, Int64, Uint32

from ...dsl import SmemAllocator
from ...plan.launch_policy import LaunchFlags
from ...plan.quantizer import PIECE, BothWaysQuantizer
from ..preconditions import report
from ..sm90.threads import WARP
from ..sm90.tma import as_matrices
from . import elements, preconditions
from .by_rows import DTYPES
from .memory import matrix_of, store
from .tile import LANES, OWN, ROWS, SIDE, THREADS, WARPS, TilePart

_WORDS = SIDE // ROWS
_PITCH = _WORDS + 1
"""Words from a column to the next in shared memory: odd, so that what lanes write lies in many banks."""


def _transposed():
    """Columns by words of four rows."""
    return cute.make_layout((SIDE, _WORDS), stride=(_PITCH, 1))


def place_of(word: Int32, column: Int32) -> Int32:
    """Where a word of a column is: lanes that write columns eight apart would meet in pairs in a bank."""
    return word ^ (column // WARP % 2 * 4)


@cute.struct
class Storage:
    """What threads share of columns: words of largest magnitudes in each warp, inverses of scales, and words.

    Of 16-bit elements, only half of the first ones are used.
    """

    largest: cute.struct.MemRange[Uint32, WARPS * SIDE]
    inverses: cute.struct.MemRange[Float32, SIDE]
    words: cute.struct.MemRange[Int32, SIDE * _PITCH]


class QuantizeBothWays:
    """The kernel of one :class:`BothWaysQuantizer`; all extents and strides arrive with a call."""

    def __init__(self, config: BothWaysQuantizer):
        self.config = config
        self.dtype = DTYPES[config.dtype]

    @cute.jit
    def __call__(self, mX, mQ, mS, mQT, mST, flags: Int32, status: Int64, stream):
        """Checks a call's tensors, and launches on ``stream``.

        Args:
            mX: the source (M, K), or (matrices, M, K), K contiguous.
            mQ, mS: e4m3 of the same shape, K contiguous, and its scales (M, K / 128), rounded up, of each
                matrix, row- or M-major.
            mQT, mST: e4m3 (K, M), M contiguous, and its scales (K, M / 128), rounded up, likewise.
            flags, status: as of :class:`.by_rows.QuantizeByRows`.
        """
        mX, mQ, mS, mQT, mST = (as_matrices(tensor) for tensor in (mX, mQ, mS, mQT, mST))
        go = Boolean(True)
        if status != 0:
            go = preconditions.hold((mX,), ((mQ, mS), (mQT, mST)), (1, 1))
            go = go and preconditions.do_not_meet(mQ, mQT) and preconditions.do_not_meet(mQ, mST)
            go = go and preconditions.do_not_meet(mS, mQT) and preconditions.do_not_meet(mS, mST)
            report(status, Int32(go))
        if go:
            self.start(mX, mQ, mS, mQT, mST, flags, stream)

    def start(self, mX, mQ, mS, mQT, mST, flags: Int32, stream):
        """Launches the kernel for matrices (rows, columns, matrices) that are in order."""
        row_tiles, k_tiles = (cute.ceil_div(mQ.shape[i], SIDE) for i in range(2))
        self.kernel(mX, mQ, mS, mQT, mST, cute.FastDivmodDivisorV2(k_tiles)).launch(
            grid=(row_tiles * k_tiles, mQ.shape[2], 1),
            block=(THREADS, 1, 1),
            stream=stream,
            use_pdl=flags & LaunchFlags.PDL,
            min_blocks_per_mp=2,
            preferred_smem_carveout=50,  # without it the DSL would ask a driver, which may not be there
        )

    @cute.kernel
    def kernel(self, mX, mQ, mS, mQT, mST, k_tiles: cute.FastDivmodDivisorV2):
        thread, (tile, matrix, _) = cute.arch.thread_idx()[0], cute.arch.block_idx()
        mX, mQ, mS, mQT, mST = (matrix_of(each, matrix) for each in (mX, mQ, mS, mQT, mST))
        row_tile, k_tile = divmod(tile, k_tiles)
        part = TilePart.of(self.dtype, thread, row_tile, k_tile)
        storage = SmemAllocator().allocate(Storage)
        cute.arch.griddepcontrol_wait()
        cute.arch.griddepcontrol_launch_dependents()
        words = part.load(mX)
        self.rows(words, part, mQ, mS, k_tile)
        self.columns(words, part, storage, thread, mST, row_tile, k_tile)
        cute.arch.sync_threads()
        self.transposed(storage, thread, mQT, row_tile, k_tile)

    @cute.jit
    def rows(self, words, part: TilePart, mQ, mS, k_tile: Int32):
        """Quantises along K, and stores."""
        quantized = cute.make_rmem_tensor(OWN, Float8E4M3FN)
        for i in cutlass.range_constexpr(ROWS):
            own = words[None, i]
            amax = elements.largest_of_lanes(elements.largest_of_words(own, self.dtype), LANES)
            scale = elements.scale_of(amax, self.config.is_power_of_two)
            inverse = elements.inverse_of(scale)
            elements.to_e4m3(elements.floats_of(own, self.dtype), inverse, quantized)
            row = part.row + i
            if row < mQ.shape[0]:
                for piece in cutlass.range_constexpr(part.pieces):
                    column = part.column_of(piece)
                    if column < mQ.shape[1]:
                        store(quantized, piece * part.piece, part.piece, mQ, (row, column))
                if part.lane == 0:
                    mS[row, k_tile] = scale

    @cute.jit
    def columns(self, words, part: TilePart, storage, thread: Int32, mST, row_tile, k_tile):
        """Quantises along M into words of four rows in shared memory, and stores scales."""
        warp, lane = thread // WARP, thread % WARP
        largest = cute.make_tensor(storage.largest.data_ptr(), cute.make_layout((SIDE, WARPS)))
        inverses = cute.make_tensor(storage.inverses.data_ptr(), cute.make_layout(SIDE))
        sQT = cute.make_tensor(storage.words.data_ptr(), _transposed())
        in_word = 32 // self.dtype.width
        for i in cutlass.range_constexpr(PIECE // 4 * part.pieces):
            most = elements.largest_words(words[i, None], self.dtype)
            for distance in (LANES, 2 * LANES):
                most = elements.larger(most, cute.arch.shuffle_sync_bfly(most, distance), self.dtype)
            if lane < LANES:
                column = part.column_of(i // (PIECE // 4)) - k_tile * SIDE
                largest[column // in_word + i % (PIECE // 4), warp] = most
        cute.arch.sync_threads()
        if thread < SIDE:
            found = largest[thread // in_word, 0]
            for i in cutlass.range_constexpr(1, WARPS):
                found = elements.larger(found, largest[thread // in_word, i], self.dtype)
            own = (found >> (thread % in_word * self.dtype.width)) & ((1 << self.dtype.width) - 1)
            amax = elements.magnitude(own, self.dtype)
            scale = elements.scale_of(amax, self.config.is_power_of_two)
            inverses[thread] = elements.inverse_of(scale)
            if k_tile * SIDE + thread < mST.shape[0]:
                mST[k_tile * SIDE + thread, row_tile] = scale
        cute.arch.sync_threads()
        quantized = cute.make_rmem_tensor(ROWS, Float8E4M3FN)
        for piece in cutlass.range_constexpr(part.pieces):
            values = self.piece_of(words, piece)
            column = part.column_of(piece) - k_tile * SIDE
            for j in cutlass.range_constexpr(part.piece):
                elements.to_e4m3(values[j, None], inverses[column + j], quantized)
                sQT[column + j, place_of(thread // LANES, column)] = cute.recast_tensor(quantized, Int32)[0]

    @cute.jit
    def piece_of(self, words, piece: cutlass.Constexpr[int]):
        """FP32 elements (columns, rows) of a piece."""
        size = PIECE // 4
        values = cute.make_rmem_tensor((PIECE * 8 // self.dtype.width, ROWS), Float32)
        for i in cutlass.range_constexpr(ROWS):
            own = cute.make_tensor(words[None, i].iterator + piece * size, cute.make_layout(size))
            values[None, i].store(elements.floats_of(own, self.dtype).load())
        return values

    @cute.jit
    def transposed(self, storage, thread: Int32, mQT, row_tile: Int32, k_tile: Int32):
        """Stores what is in shared memory: a warp a column at a time, a lane four rows."""
        sQT = cute.make_tensor(storage.words.data_ptr(), _transposed())
        own = cute.make_rmem_tensor(1, Int32)
        lane = thread % WARP
        row = row_tile * SIDE + lane * ROWS
        for i in cutlass.range_constexpr(SIDE // WARPS):
            column = thread // WARP + i * WARPS
            if row < mQT.shape[1] and k_tile * SIDE + column < mQT.shape[0]:
                own[0] = sQT[column, place_of(lane, column)]
                quantized = cute.recast_tensor(own, Float8E4M3FN)
                store(quantized, 0, ROWS, mQT, (k_tile * SIDE + column, row))
