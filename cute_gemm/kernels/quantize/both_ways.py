"""Quantises matrices 1x128 along their rows and, transposed, along their columns; each is read once.

A weight's gradient sums over tokens, so both of its operands have scales along tokens, and are stored with
tokens contiguous. A CTA has 128 x 128 elements in registers, writes them as they lie, and hands words of four
rows to the threads that have whole columns (:mod:`.turned`). All scales are known before the first element is
quantised, so that each is unpacked once, for both of its results.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float8E4M3FN, Float32, Int32, Int64, Uint32, const_expr

from ...dsl import SmemAllocator
from ...plan.launch_policy import LaunchFlags
from ...plan.quantizer import PIECE, BothWaysQuantizer
from ..preconditions import report
from ..sm90.threads import WARP
from ..sm90.tma import as_matrices
from . import elements, preconditions, turned
from .by_rows import DTYPES
from .lanes import distances, of_lane, shared_out
from .memory import matrix_of, up_to
from .row_blocks import BlocksByEnds, BlocksByOffsets, EvenBlocks
from .tile import LANES, ROWS, SIDE, THREADS, WARPS, TilePart

BLOCKS = {"all": EvenBlocks, "offsets": BlocksByOffsets, "ends": BlocksByEnds}
"""Which rows share a scale along columns, by ``rows`` of a configuration."""


@cute.struct
class Storage:
    """What threads share of columns: words of largest magnitudes in each warp, inverses of scales, and words.

    Of 16-bit elements, only half of the first ones are used.
    """

    largest: cute.struct.MemRange[Uint32, WARPS * SIDE]
    inverses: cute.struct.Align[cute.struct.MemRange[Float32, SIDE], PIECE]
    words: turned.Words


class QuantizeBothWays:
    """The kernel of one :class:`BothWaysQuantizer`; all extents and strides arrive with a call."""

    def __init__(self, config: BothWaysQuantizer):
        self.config = config
        self.dtype = DTYPES[config.dtype]
        self.blocks = BLOCKS[config.rows]

    @cute.jit
    def __call__(self, mX, mQ, mS, mQT, mST, flags: Int32, status: Int64, stream, *index):
        """Checks a call's tensors, and launches on ``stream``.

        Args:
            mX: the source (M, K), or (matrices, M, K), K contiguous.
            mQ, mS: e4m3 of the same shape, K contiguous, and its scales (M, K / 128), rounded up, of each
                matrix, row- or M-major.
            mQT, mST: e4m3 (K, M), M contiguous, and its scales (K, blocks of rows) likewise. There are more
                columns than M where groups of rows are rounded up.
            flags, status: as of :class:`.by_rows.QuantizeByRows`.
            index: what says where blocks of rows begin, as ``rows`` of the configuration takes it.
        """
        mX, mQ, mS, mQT, mST = (as_matrices(tensor) for tensor in (mX, mQ, mS, mQT, mST))
        go, blocks = Boolean(True), self.blocks(*index)
        if status != 0:
            columns = cute.ceil_div(mQ.shape[1], SIDE), blocks.count(mX.shape[0])
            results = (mQ, mS), (mQT, mST)
            go = preconditions.hold((mX, *index), results, (1, 1), columns=columns)
            go = go and blocks.are_in_order(mX.shape[0], mQT.shape[1])
            go = go and preconditions.do_not_meet(mQ, mQT) and preconditions.do_not_meet(mQ, mST)
            go = go and preconditions.do_not_meet(mS, mQT) and preconditions.do_not_meet(mS, mST)
            report(status, Int32(go))
        if go:
            self.start(mX, mQ, mS, mQT, mST, blocks, flags, stream)

    def start(self, mX, mQ, mS, mQT, mST, blocks, flags: Int32, stream):
        """Launches the kernel for matrices (rows, columns, matrices) that are in order."""
        k_tiles = cute.ceil_div(mQ.shape[1], SIDE)
        self.kernel(mX, mQ, mS, mQT, mST, blocks, cute.FastDivmodDivisorV2(k_tiles)).launch(
            grid=(blocks.count(mX.shape[0]) * k_tiles, mQ.shape[2], 1),
            block=(THREADS, 1, 1),
            stream=stream,
            use_pdl=flags & LaunchFlags.PDL,
            min_blocks_per_mp=3 if self.dtype.width == 16 else 2,
            preferred_smem_carveout=50,  # without it the DSL would ask a driver, which may not be there
        )

    @cute.kernel
    def kernel(self, mX, mQ, mS, mQT, mST, blocks, k_tiles: cute.FastDivmodDivisorV2):
        """A CTA has a block of rows, and a block of columns."""
        thread, (tile, matrix, _) = cute.arch.thread_idx()[0], cute.arch.block_idx()
        mX, mQ, mS, mQT, mST = (matrix_of(each, matrix) for each in (mX, mQ, mS, mQT, mST))
        row_tile, k_tile = divmod(tile, k_tiles)
        if const_expr(not blocks.reads_memory):
            (first, _), _ = blocks.spans_of(row_tile, mX.shape[0])
            part = self.part_of(thread, first, k_tile)
        storage = SmemAllocator().allocate(Storage)
        cute.arch.griddepcontrol_wait()
        cute.arch.griddepcontrol_launch_dependents()
        if const_expr(not blocks.reads_memory):
            self.tile(mX, mQ, mS, mQT, mST, storage, thread, part, first, None, row_tile, k_tile)
        else:
            (row, behind), (first, end) = blocks.spans_of(row_tile, mX.shape[0])
            part = self.part_of(thread, row, k_tile)
            mX, mQ, mS = (up_to(each, behind, 0) for each in (mX, mQ, mS))
            mQT, count = up_to(mQT, end, 1), None if blocks.is_whole else behind - row
            if first < end:
                self.tile(mX, mQ, mS, mQT, mST, storage, thread, part, first, count, row_tile, k_tile)

    def part_of(self, thread: Int32, row: Int32, k_tile: Int32) -> TilePart:
        """What a thread has of a tile that begins at a row."""
        return TilePart.of(self.dtype, thread, row, k_tile, self.blocks.is_whole)

    @cute.jit
    def tile(self, mX, mQ, mS, mQT, mST, storage, thread, part, first: Int32, count, row_tile, k_tile):
        """Quantises 128 rows as far as there are some, and 128 columns.

        Args:
            first: where the rows begin in what is transposed.
            count: of rows; those behind become zeros there. None where rows come in whole pieces.
        """
        words = part.load(mX)
        self.largest_of_columns(words, part, storage, thread)
        cute.arch.sync_threads()
        if thread < SIDE:
            self.scale_columns(storage, thread, mST, row_tile, k_tile)
        inverses = self.scale_rows(words, part, mS, k_tile)
        cute.arch.sync_threads()
        rows = part.rows_of(mQ)
        for piece in cutlass.range_constexpr(part.pieces):
            values = part.floats_of(words, piece)
            self.rows(values, part, piece, inverses, mQ, rows)
            self.columns(values, part, piece, storage, thread)
        cute.arch.sync_threads()
        turned.store(storage.words.data_ptr(), part, thread, mQT, first, count, k_tile)

    @cute.jit
    def scale_rows(self, words, part: TilePart, mS, k_tile: Int32) -> list:
        """Stores the scales of rows; of those of a thread their inverses."""
        most = [elements.largest_words(words[None, i], self.dtype) for i in range(ROWS)]
        own = shared_out(most, part.lane, distances(LANES), self.larger)[0]  # of row lane % ROWS
        scale = elements.scale_of(elements.largest_in(own, self.dtype), self.config.is_power_of_two)
        if (part.lane < ROWS) & (part.row + part.lane < mS.shape[0]):
            mS[part.row + part.lane, k_tile] = scale
        inverse = elements.inverse_of(scale)
        return [of_lane(inverse, i, ROWS) for i in range(ROWS)]

    @cute.jit
    def largest_of_columns(self, words, part: TilePart, storage, thread: Int32):
        """Writes words of the largest magnitudes in a warp's rows to shared memory."""
        lane = thread % WARP
        most = [elements.largest_words(words[i, None], self.dtype) for i in range(PIECE // 4 * part.pieces)]
        most = shared_out(most, lane, (LANES, 2 * LANES), self.larger)  # one of each piece's four words
        first = part.lane * (PIECE // 4) + lane // LANES
        for piece in cutlass.range_constexpr(part.pieces):
            word = first + piece * LANES * (PIECE // 4)
            storage.largest.data_ptr()[thread // WARP * SIDE + word] = most[piece]

    @cute.jit
    def scale_columns(self, storage, thread: Int32, mST, row_tile: Int32, k_tile: Int32):
        """Of a thread's column the scale, which it stores, and its inverse, to shared memory."""
        in_word = 32 // self.dtype.width
        largest = cute.make_tensor(storage.largest.data_ptr(), cute.make_layout((SIDE, WARPS)))
        found = largest[thread // in_word, 0]
        for i in cutlass.range_constexpr(1, WARPS):
            found = self.larger(found, largest[thread // in_word, i])
        own = (found >> (thread % in_word * self.dtype.width)) & ((1 << self.dtype.width) - 1)
        scale = elements.scale_of(elements.magnitude(own, self.dtype), self.config.is_power_of_two)
        storage.inverses.data_ptr()[thread] = elements.inverse_of(scale)
        if k_tile * SIDE + thread < mST.shape[0]:
            mST[k_tile * SIDE + thread, row_tile] = scale

    @cute.jit
    def rows(self, values, part: TilePart, piece: cutlass.Constexpr[int], inverses: list, mQ, rows):
        """Quantises a piece of each row along K, and stores it."""
        quantized = cute.make_rmem_tensor(part.piece, Float8E4M3FN)
        for i in cutlass.range_constexpr(ROWS):
            elements.to_e4m3(values[None, i], inverses[i], quantized)
            part.store(quantized, mQ, rows[i], i, piece)

    @cute.jit
    def columns(self, values, part: TilePart, piece: cutlass.Constexpr[int], storage, thread: Int32):
        """Quantises a piece's columns along M, into shared memory."""
        column = (part.lane + piece * LANES) * part.piece
        inverses = self.inverses_of(storage, column, part.piece)
        turned.put(storage.words.data_ptr(), part, thread, values, piece, inverses)

    @cute.jit
    def inverses_of(self, storage, column: Int32, size: cutlass.Constexpr[int]):
        """Those of the scales of columns that follow each other, in registers."""
        found, layout = cute.make_rmem_tensor(size, Float32), cute.make_layout(size)
        shared = cute.make_ptr(
            Float32,
            (storage.inverses.data_ptr() + column).toint(),
            cutlass.AddressSpace.smem,
            assumed_align=PIECE,
        )
        cute.autovec_copy(cute.make_tensor(shared, layout), found)
        return found

    def larger(self, a: Uint32, b: Uint32) -> Uint32:
        """Of each magnitude in two words the larger one."""
        return elements.larger(a, b, self.dtype)
