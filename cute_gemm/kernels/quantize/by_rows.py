"""Quantises rows to e4m3 with a scale for each 128 consecutive elements: 1x128.

Eight lanes have a block, and a warp four blocks side by side: 512 elements of one row. A lane has 16 of a
block's 128, in pieces of 16 bytes of the source that lie eight pieces apart, so that what the lanes load at
once is contiguous:

    element     0        8        ...      56       64       72       ...      120    of bf16
    lane        0        1                 7        0        1                 7

Each thread has its part of several rows, and asks for all of it before it looks at any. A block's scale is
worked out in some of its lanes. What bounds the kernel is memory; nothing is shared between warps.
"""

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Boolean, Float8E4M3FN, Float16, Float32, Int32, Int64, Uint32, const_expr

from ...plan.launch_policy import LaunchFlags
from ...plan.quantizer import BLOCK, PIECE, RowQuantizer
from ..preconditions import report
from ..sm90.threads import WARP
from ..sm90.tma import as_matrices
from . import elements, preconditions
from .lanes import distances, of_lane, shared_out
from .memory import address_of, load_from, matrix_of, merged, store_if
from .rows import SKIPPED, AllRows, GatheredRows, OwnedRows, RowsByOffsets, ValidRows
from .sources import Plain, SwiGLU

LANES = 8
"""Threads that have a block."""

OWN = BLOCK // LANES
"""Elements of a block that a thread has."""

WARPS = 8
DTYPES = {"bfloat16": BFloat16, "float16": Float16, "float32": Float32}
SOURCES = {
    "plain": Plain,
    "swiglu": SwiGLU,
    "swiglu_interleaved": lambda dtype: SwiGLU(dtype, is_interleaved=True),
}
ROWS = {
    "all": AllRows,
    "gathered": GatheredRows,
    "valid": ValidRows,
    "owned": OwnedRows,
    "offsets": RowsByOffsets,
}


class QuantizeByRows:
    """The kernel of one :class:`RowQuantizer`; all extents and strides arrive with a call."""

    def __init__(self, config: RowQuantizer):
        self.config = config
        self.dtype = DTYPES[config.dtype]
        self.source = SOURCES[config.source](self.dtype)
        self.rows = ROWS[config.rows]
        self.piece = PIECE * 8 // self.dtype.width  # elements
        self.pieces = OWN // self.piece
        self.tile = (WARPS * config.passes, WARP // LANES)  # rows and blocks of a CTA

    @cute.jit
    def __call__(self, mX, mQ, mS, flags: Int32, status: Int64, stream, *index):
        """Checks a call's tensors, and launches on ``stream``.

        Args:
            mX: the source (rows, K), or (matrices, rows, K), K contiguous; of ``SwiGLU`` twice as wide.
            mQ: e4m3 of the same shape but for rows that are gathered, and for ``SwiGLU``; K contiguous.
            mS: FP32 (rows, K / 128, rounded up), or of each matrix, row- or M-major.
            flags: :class:`LaunchFlags`.
            status: address of an Int32 of the host's memory, or 0: as of ``Fp8Gemm1D2D``.
            index: what says which rows are quantised, as ``rows`` of the configuration takes it.
        """
        mX, mQ, mS = (as_matrices(tensor) for tensor in (mX, mQ, mS))
        go = Boolean(True)
        if status != 0:
            go = preconditions.hold((mX, *index), ((mQ, mS),), (1,), self.config.rows == "offsets")
            go = go and mX.shape[1] == self.source.parts * mQ.shape[1]
            report(status, Int32(go))
        if go:
            rows = self.rows.of(mX.shape[0], *index)
            if const_expr(self.config.rows == "all"):
                mX, mQ, mS = merged((mX, mQ, mS))
            self.start(mX, mQ, mS, rows, flags, stream)

    def start(self, mX, mQ, mS, rows: Any, flags: Int32, stream):
        """Launches the kernel for matrices (rows, columns, matrices) that are in order."""
        k_tiles = cute.ceil_div(mQ.shape[1], self.tile[1] * BLOCK)
        row_tiles = cute.ceil_div(mQ.shape[0], self.tile[0])
        self.kernel(mX, mQ, mS, rows, cute.FastDivmodDivisorV2(k_tiles)).launch(
            grid=(k_tiles * row_tiles, mQ.shape[2], 1),
            block=(WARPS * WARP, 1, 1),
            stream=stream,
            use_pdl=flags & LaunchFlags.PDL,
            # Of two plain rows of 16 bits, the compiler would take 48 registers, and five CTAs were on an SM.
            min_blocks_per_mp=6 if self.source.parts == 1 and self.dtype.width == 16 else 0,
            preferred_smem_carveout=10,  # without it the DSL would ask a driver, which may not be there
        )

    @cute.kernel
    def kernel(self, mX, mQ, mS, rows: Any, k_tiles: cute.FastDivmodDivisorV2):
        """A CTA has a tile of whole blocks; those along K come first, so that neighbours read neighbours."""
        passes, pieces, parts = self.config.passes, self.pieces, self.source.parts
        thread, (tile, matrix, _) = cute.arch.thread_idx()[0], cute.arch.block_idx()
        mX, mQ, mS = (matrix_of(each, matrix) for each in (mX, mQ, mS))
        warp, unit, lane = thread // WARP, thread % WARP // LANES, thread % LANES
        row_tile, k_tile = divmod(tile, k_tiles)
        first_row = row_tile * self.tile[0] + warp * passes
        block = k_tile * self.tile[1] + unit
        column = block * BLOCK + lane * self.piece
        # Rows and pieces of a thread, as far as they exist.
        sources = cute.make_rmem_tensor(passes, Int32)
        words = cute.make_rmem_tensor((PIECE // 4, pieces, parts, passes), Uint32)
        words.fill(0)
        cute.arch.griddepcontrol_wait()
        cute.arch.griddepcontrol_launch_dependents()
        for i in cutlass.range_constexpr(passes):
            row = first_row + i
            sources[i] = cutlass.select_(row < mQ.shape[0], rows.source(row, matrix), Int32(SKIPPED))
        place = first_row, column, block, lane
        if const_expr(self.rows.may_skip):
            most = sources[0]
            for i in cutlass.range_constexpr(1, passes):
                most = cutlass.max(most, sources[i])
            # Rows are those of a whole warp, so that its lanes stay together.
            if most >= 0:
                self.quantize(mX, mQ, mS, sources, words, place)
        else:
            self.quantize(mX, mQ, mS, sources, words, place)

    @cute.jit
    def quantize(self, mX, mQ, mS, sources: cute.Tensor, words: cute.Tensor, place: tuple):
        """Quantises what a thread has of its rows, from ``sources`` by way of ``words``, which are zeros.

        Whole warps come here.

        Args:
            mX, mQ, mS: matrices (rows, columns).
            sources: a row of ``mX`` for each row of the thread, or :data:`SKIPPED`.
            words: (words, pieces, parts, rows).
            place: first row and column of ``mQ``, block, and lane among those that have it.
        """
        passes, pieces, parts = self.config.passes, self.pieces, self.source.parts
        (first_row, column, block, lane), k = place, mQ.shape[1]
        for i in cutlass.range_constexpr(passes):
            for part in cutlass.range_constexpr(parts):
                first = address_of(mX, (sources[i], self.source.column(part, column, k)))
                for piece in cutlass.range_constexpr(pieces):
                    at = piece * LANES * self.piece
                    if (sources[i] >= 0) & (column + at < k):
                        further = self.source.column(0, at, 0) * (self.dtype.width // 8)
                        load_from(words[None, piece, part, i], first + further)
        values, most = [], []
        for i in cutlass.range_constexpr(passes):
            own = cute.make_tensor(
                words[None, None, None, i].iterator, cute.make_layout((PIECE // 4 * pieces, parts))
            )
            made, amax = self.source.values(own)
            values.append(made)
            most.append(amax)
        amax = shared_out(most, lane, distances(LANES), cutlass.max)[0]  # of pass lane % passes
        scale = elements.scale_of(amax, self.config.is_power_of_two)
        inverse = elements.inverse_of(scale)
        quantized = cute.make_rmem_tensor((self.piece, pieces), Float8E4M3FN)
        first, step = address_of(mQ, (first_row, column)), Int64(mQ.stride[0])
        source = sources[0]
        for i in cutlass.range_constexpr(passes):
            elements.to_e4m3(values[i], of_lane(inverse, i, passes), quantized)
            for piece in cutlass.range_constexpr(pieces):
                at = piece * LANES * self.piece
                store_if((sources[i] >= 0) & (column + at < k), quantized[None, piece], first + at)
            first += step
            source = Int32(cutlass.select_(lane == i, sources[i], source))
        if (lane < passes) & (source >= 0) & (column - lane * self.piece < k):
            mS[first_row + lane, block] = scale
