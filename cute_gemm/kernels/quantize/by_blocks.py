"""Quantises matrices to e4m3 with a scale for each block of 128 rows and columns: 128x128.

A CTA has one block, all of which its threads hold in registers while they agree on its largest magnitude.
Where a result's rows are the columns of what lies in memory, they hand it round through shared memory.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float8E4M3FN, Int32, Int64

from ...dsl import SmemAllocator
from ...plan.launch_policy import LaunchFlags
from ...plan.limits import K_MULTIPLE
from ...plan.quantizer import BLOCK, PIECE, BlockQuantizer
from ..preconditions import report
from ..sm90.threads import WARP
from ..sm90.tma import as_matrices
from . import elements, preconditions, turned
from .by_rows import DTYPES
from .memory import address_of, matrix_of
from .tile import ROWS, SIDE, THREADS, WARPS, TilePart


class QuantizeByBlocks:
    """The kernel of one :class:`BlockQuantizer`; all extents and strides arrive with a call."""

    carveout = 10
    """Percent of an SM's memory that is to be shared memory."""

    def __init__(self, config: BlockQuantizer):
        self.config = config
        self.dtype = DTYPES[config.dtype]

    @cute.jit
    def __call__(self, mX, mQ, mS, flags: Int32, status: Int64, stream):
        """Checks a call's tensors, and launches on ``stream``.

        Args:
            mX: the source (N, K), or (matrices, N, K), K contiguous.
            mQ: e4m3 of the same shape, K contiguous.
            mS: FP32 (N / 128, K / 128), rounded up, or of each matrix, row- or M-major.
            flags, status: as of :class:`.by_rows.QuantizeByRows`.
        """
        mX, mQ, mS = (as_matrices(tensor) for tensor in (mX, mQ, mS))
        go = Boolean(True)
        if status != 0:
            go = preconditions.hold((mX,), ((mQ, mS),), (BLOCK,)) and mX.shape[1] % K_MULTIPLE == 0
            report(status, Int32(go))
        if go:
            self.start(mX, mQ, mS, flags, stream)

    def start(self, mX, mQ, mS, flags: Int32, stream):
        """Launches the kernel for matrices (rows, columns, matrices) that are in order."""
        row_tiles, k_tiles = (cute.ceil_div(mX.shape[i], SIDE) for i in range(2))
        self.kernel(mX, mQ, mS, cute.FastDivmodDivisorV2(k_tiles)).launch(
            grid=(row_tiles * k_tiles, mQ.shape[2], 1),
            block=(THREADS, 1, 1),
            stream=stream,
            use_pdl=flags & LaunchFlags.PDL,
            min_blocks_per_mp=5 if self.dtype.width == 16 else 0,
            # Without it the DSL would ask a driver, which may not be there.
            preferred_smem_carveout=self.carveout,
        )

    @cute.kernel
    def kernel(self, mX, mQ, mS, k_tiles: cute.FastDivmodDivisorV2):
        """A CTA has a block."""
        thread, (tile, matrix, _) = cute.arch.thread_idx()[0], cute.arch.block_idx()
        mX, mQ, mS = (matrix_of(each, matrix) for each in (mX, mQ, mS))
        row_tile, k_tile = divmod(tile, k_tiles)
        part = TilePart.of(self.dtype, thread, row_tile * SIDE, k_tile)
        smem = SmemAllocator()
        of_warps = smem.allocate_tensor(Int32, cute.make_layout(WARPS), 16)
        cute.arch.griddepcontrol_wait()
        cute.arch.griddepcontrol_launch_dependents()
        words = part.load(mX)
        own = cute.make_tensor(words.iterator, cute.make_layout(cute.size(words)))
        amax = elements.largest_of_lanes(elements.largest_of_words(own, self.dtype), WARP)
        of_warps[thread // WARP] = amax
        cute.arch.sync_threads()
        for i in cutlass.range_constexpr(WARPS):
            amax = cutlass.max(amax, of_warps[i])
        scale = elements.scale_of(amax, self.config.is_power_of_two)
        if thread == 0:
            self.store_scale(scale, mS, row_tile, k_tile)
        self.store(words, part, elements.inverse_of(scale), mQ, smem, thread, row_tile, k_tile)

    def store_scale(self, scale, mS, row_tile: Int32, k_tile: Int32):
        """Of the block of a tile."""
        mS[row_tile, k_tile] = scale

    @cute.jit
    def store(self, words, part: TilePart, inverse, mQ, smem, thread: Int32, row_tile: Int32, k_tile: Int32):
        """Quantises what the calling thread has of a tile, and stores it."""
        quantized = cute.make_rmem_tensor(part.piece, Float8E4M3FN)
        for i in cutlass.range_constexpr(ROWS):
            first = address_of(mQ, (part.row + i, part.column))
            for piece in cutlass.range_constexpr(part.pieces):
                values = elements.floats_of(part.words_of(words, i, piece), self.dtype)
                elements.to_e4m3(values, inverse, quantized)
                part.store(quantized, mQ, first, i, piece)


class QuantizeTransposedByBlocks(QuantizeByBlocks):
    """The same of a source (K, N), N rows and columns of the results being those of its transpose."""

    carveout = 50

    def store_scale(self, scale, mS, row_tile: Int32, k_tile: Int32):
        """As :meth:`QuantizeByBlocks.store_scale`."""
        mS[k_tile, row_tile] = scale

    @cute.jit
    def store(self, words, part: TilePart, inverse, mQ, smem, thread: Int32, row_tile: Int32, k_tile: Int32):
        """As :meth:`QuantizeByBlocks.store`."""
        shared = smem.allocate_tensor(Int32, turned.layout(), PIECE).iterator
        for piece in cutlass.range_constexpr(part.pieces):
            values = part.floats_of(words, piece)
            turned.put(shared, part, thread, values, piece, [inverse] * part.piece)
        cute.arch.sync_threads()
        turned.store(shared, part, thread, mQ, row_tile * SIDE, None, k_tile)
