"""RMS normalisation (Zhang and Sennrich, arXiv:1910.07467), then quantisation of its rows, 1x128.

A CTA has a row, whose elements, times their weights, stay in registers while its threads agree on the mean of
their squares: one over its root goes with the inverse of each scale. A thread has pieces of 16 bytes of the
row, so that a block is in lanes that follow each other. With a residual, the row is the sum of both, rounded
to their type, and replaces the residual.
"""

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float8E4M3FN, Float32, Int32, Int64, Uint32, const_expr

from ...dsl import SmemAllocator
from ...plan.launch_policy import LaunchFlags
from ...plan.quantizer import BLOCK, PIECE, NormQuantizer
from ..preconditions import are_apart, report
from ..sm90.threads import WARP
from ..sm90.tma import as_matrices
from . import elements, preconditions
from .by_rows import DTYPES, ROWS
from .lanes import distances, of_lane, shared_out
from .memory import address_of, load_from, matrix_of, merged, store_if

_LIFT = 2.0**64
"""By what products are multiplied that are so small that what would scale them overflows."""


class QuantizeNormed:
    """The kernel of one :class:`NormQuantizer`; all extents and strides arrive with a call."""

    def __init__(self, config: NormQuantizer):
        self.config = config
        self.dtype = DTYPES[config.dtype]
        self.piece = PIECE * 8 // self.dtype.width  # elements
        self.stride = config.threads * self.piece  # elements from a thread's piece to its next one
        self.lanes = BLOCK // self.piece  # that have a block
        self.warps = config.threads // WARP
        self.rows = ROWS[config.rows]

    @cute.jit
    def __call__(self, mX, mW, mQ, mS, flags: Int32, status: Int64, stream, *behind):
        """Checks a call's tensors, and launches on ``stream``.

        Args:
            mX: the source (M, K), or (matrices, M, K), K contiguous.
            mW: the weight of each column (K).
            mQ, mS: e4m3 of the same shape but for rows that are gathered, K contiguous, and its scales
                (M, K / 128), rounded up, of each matrix, row- or M-major.
            flags, status: as of :class:`.by_rows.QuantizeByRows`.
            behind: where there is a residual, it, as ``mX``; what says which rows are quantised, as there;
                what is added to the mean of squares, FP32, in front of an alignment.
        """
        residual, index, eps = self.parts(behind)
        mX, mQ, mS, *residual = (as_matrices(tensor) for tensor in (mX, mQ, mS, *residual))
        gW = preconditions.as_three(mW)
        go = Boolean(True)
        if status != 0:
            inputs = mX, gW, *residual, *index
            go = preconditions.hold(inputs, ((mQ, mS),), (1,), self.config.rows == "offsets")
            go = go and self.fits(mQ.shape[1])
            for each in residual:
                go = go and are_apart(each) and preconditions.do_not_meet(mX, each)
                go = go and preconditions.do_not_meet(gW, each)
                for vector in index[:1]:
                    go = go and preconditions.do_not_meet(vector, each)
            report(status, Int32(go))
        if go:
            rows = self.rows.of(mX.shape[0], *index)
            if const_expr(self.config.rows == "all"):
                mX, mQ, mS, *residual = merged((mX, mQ, mS, *residual))
            self.start(mX, gW, mQ, mS, eps, rows, flags, stream, tuple(residual))

    def start(self, mX, gW, mQ, mS, eps: Float32, rows: Any, flags: Int32, stream, residual: tuple):
        """Launches the kernel for matrices (rows, columns, matrices) that are in order."""
        self.kernel(mX, gW, mQ, mS, eps, rows, residual).launch(
            grid=(mQ.shape[0], mQ.shape[2], 1),
            block=(self.config.threads, 1, 1),
            stream=stream,
            use_pdl=flags & LaunchFlags.PDL,
        )

    @cute.kernel
    def kernel(self, mX, gW, mQ, mS, eps: Float32, rows: Any, residual: tuple):
        thread, (row, matrix, _) = cute.arch.thread_idx()[0], cute.arch.block_idx()
        mX, mQ, mS, *residual = (matrix_of(each, matrix) for each in (mX, mQ, mS, *residual))
        of_warps = SmemAllocator().allocate_tensor(Float32, cute.make_layout(self.warps), 16)
        cute.arch.griddepcontrol_wait()
        cute.arch.griddepcontrol_launch_dependents()
        source, k = rows.source(row, matrix), mQ.shape[1]
        if source >= 0:
            column = thread * self.piece
            words = self.load(mX, source, column, k)
            if const_expr(self.config.has_residual):
                self.add(words, residual[0], row, column)
            weights = self.load(gW, 0, column, k)
            own = self.square(words)
            values = self.weighted(words, weights)
            most = self.largest(values, thread)
            factor = cute.math.rsqrt(self.mean(own, of_warps, thread, k) + eps, approx=True)
            most = (most.bitcast(Float32) * factor).bitcast(Int32) & elements.MAGNITUDE
            scale = elements.scale_of(most, self.config.is_power_of_two)
            within = self.within(values, factor, elements.inverse_of(scale))
            self.store(values, within, mQ, row, column, k)
            self.store_scale(scale, mS, thread, row, k)

    @cute.jit
    def load(self, mX, row: Int32, column: Int32, k: Int32):
        """A thread's pieces of a row, of which the first begins at ``column``; zeros behind its end."""
        words = cute.make_rmem_tensor((PIECE // 4, self.config.steps), Uint32)
        words.fill(0)
        first = address_of(mX, (row, column))
        for i in cutlass.range_constexpr(self.config.steps):
            if column + i * self.stride < k:
                load_from(words[None, i], first + i * self.config.threads * PIECE)
        return words

    @cute.jit
    def weighted(self, words: cute.Tensor, weights: cute.Tensor) -> cute.Tensor:
        """Elements times their weights (elements, steps); of 16 bits, that is exact."""
        values = cute.make_rmem_tensor((self.piece, self.config.steps), Float32)
        for i in cutlass.range_constexpr(self.config.steps):
            of_step = elements.floats_of(words[None, i], self.dtype).load()
            values[None, i].store(of_step * elements.floats_of(weights[None, i], self.dtype).load())
        return values

    def largest(self, values: cute.Tensor, thread: Int32) -> Int32:
        """The bits of the largest magnitude of a block: of the thread's in step ``thread % steps``."""
        most = [elements.largest(values[None, i]) for i in range(self.config.steps)]
        return shared_out(most, thread, distances(self.lanes), cutlass.max)[0]

    @cute.jit
    def within(self, values: cute.Tensor, factor: Float32, inverse: Float32) -> Float32:
        """By what a lane's block is multiplied: ``factor``, and the inverse of its scale.

        Where that is too much for FP32, as a block is tiny, ``values`` become larger, and it smaller.
        """
        both = factor * inverse
        if cute.arch.vote_any_sync(both == Float32.inf):
            lift = Float32(cutlass.select_(both == Float32.inf, Float32(_LIFT), Float32(1)))
            both = factor * (inverse * elements.inverse_of(lift))
            for i in cutlass.range_constexpr(self.config.steps):
                own = values[None, i]
                own.store(own.load() * of_lane(lift, i, self.config.steps))
        return both

    @cute.jit
    def store(self, values, within: Float32, mQ, row: Int32, column: Int32, k: Int32):
        """Quantises pieces, and writes them."""
        quantized = cute.make_rmem_tensor(self.piece, Float8E4M3FN)
        first = address_of(mQ, (row, column))
        for i in cutlass.range_constexpr(self.config.steps):
            elements.to_e4m3(values[None, i], of_lane(within, i, self.config.steps), quantized)
            store_if(column + i * self.stride < k, quantized, first + i * self.stride)

    @cute.jit
    def store_scale(self, scale: Float32, mS, thread: Int32, row: Int32, k: Int32):
        """Writes the scales of blocks, each from one of the lanes that have it."""
        step = thread % self.config.steps
        block = step * (self.stride // BLOCK) + thread // self.lanes
        if thread % self.lanes < self.config.steps and block * BLOCK < k:
            mS[row, block] = scale

    def parts(self, behind: tuple) -> tuple:
        """A residual, if there is one; what says which rows are quantised; and what is added to a mean."""
        first = int(self.config.has_residual)
        at = first + int(self.config.rows != "all")
        return behind[:first], (*behind[first:at], *behind[at + 1 :]), behind[at]

    def fits(self, k) -> Boolean:
        """Whether the threads hold a row of K columns."""
        return k <= self.config.steps * self.config.threads * self.piece

    @cute.jit
    def add(self, words: cute.Tensor, mR: cute.Tensor, row: Int32, column: Int32):
        """Adds the residual's row to that in ``words``, and writes the sum over it."""
        k = mR.shape[1]
        more = self.load(mR, row, column, k)
        first = address_of(mR, (row, column))
        for i in cutlass.range_constexpr(self.config.steps):
            added = elements.floats_of(words[None, i], self.dtype).load()
            added = added + elements.floats_of(more[None, i], self.dtype).load()
            own = cute.recast_tensor(words[None, i], self.dtype)
            own.store(added.to(self.dtype))
            store_if(column + i * self.stride < k, words[None, i], first + i * self.config.threads * PIECE)

    @cute.jit
    def square(self, words: cute.Tensor) -> Float32:
        """The sum of the squares of a thread's elements."""
        sums = []
        for i in cutlass.range_constexpr(self.config.steps):
            values = elements.floats_of(words[None, i], self.dtype)
            of_step = values[0] * values[0]
            for j in cutlass.range_constexpr(1, self.piece):
                of_step = cute.math.fma(values[j], values[j], of_step)
            sums.append(of_step)
        return sum_of(sums)

    @cute.jit
    def mean(self, own: Float32, of_warps: cute.Tensor, thread: Int32, k: Int32) -> Float32:
        """The mean over a row of what threads have the sums of, the same in all of them: in a fixed order."""
        for i in cutlass.range_constexpr(WARP.bit_length() - 1):
            own += cute.arch.shuffle_sync_bfly(own, 1 << i)
        of_warps[thread // WARP] = own
        cute.arch.sync_threads()
        return sum_of([of_warps[i] for i in range(self.warps)]) * elements.inverse_of(Float32(k))


def sum_of(values: list) -> Float32:
    """The sum of some, of neighbours first."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return sum_of(values[:half]) + sum_of(values[half:])
