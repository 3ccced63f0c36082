"""RMS normalisation (Zhang and Sennrich, arXiv:1910.07467), then quantisation of its rows, 1x128.

A CTA has a row, whose elements stay in registers while its threads agree on the mean of their squares. A
thread has pieces of 16 bytes of it, so that a block is in lanes that follow each other. With a residual, the
row is the sum of both, rounded to their type, and replaces the residual.
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
from .memory import load, matrix_of, merged, store


class QuantizeNormed:
    """The kernel of one :class:`NormQuantizer`; all extents and strides arrive with a call."""

    def __init__(self, config: NormQuantizer):
        self.config = config
        self.dtype = DTYPES[config.dtype]
        self.piece = PIECE * 8 // self.dtype.width  # elements
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
            words = self.load(mX, thread, source, k)
            if const_expr(self.config.has_residual):
                self.add(words, residual[0], thread, row)
            weights = self.load(gW, thread, 0, k)
            factor = cute.math.rsqrt(self.mean_square(words, of_warps, thread, k) + eps, approx=True)
            for i in cutlass.range_constexpr(self.config.steps):
                values = elements.floats_of(words[None, i], self.dtype)
                weight = elements.floats_of(weights[None, i], self.dtype)
                values.store(values.load() * factor * weight.load())
                self.store(values, mQ, mS, thread, row, self.column(thread, i), k)

    @cute.jit
    def load(self, mX, thread: Int32, row: Int32, k: Int32):
        """A thread's pieces of a row; zeros behind its end."""
        words = cute.make_rmem_tensor((PIECE // 4, self.config.steps), Uint32)
        words.fill(0)
        for i in cutlass.range_constexpr(self.config.steps):
            if self.column(thread, i) < k:
                load(words[None, i], mX, (row, self.column(thread, i)))
        return words

    @cute.jit
    def store(self, values, mQ, mS, thread: Int32, row: Int32, column: Int32, k: Int32):
        """Quantises a piece, and writes it; one of its block's threads writes their scale."""
        lanes = BLOCK // self.piece
        amax = elements.largest_of_lanes(elements.largest(cute.recast_tensor(values, Int32)), lanes)
        scale = elements.scale_of(amax, self.config.is_power_of_two)
        quantized = cute.make_rmem_tensor(self.piece, Float8E4M3FN)
        elements.to_e4m3(values, elements.inverse_of(scale), quantized)
        if column < k:
            store(quantized, 0, self.piece, mQ, (row, column))
            if thread % lanes == 0:
                mS[row, column // BLOCK] = scale

    def parts(self, behind: tuple) -> tuple:
        """A residual, if there is one; what says which rows are quantised; and what is added to a mean."""
        first = int(self.config.has_residual)
        at = first + int(self.config.rows != "all")
        return behind[:first], (*behind[first:at], *behind[at + 1 :]), behind[at]

    def fits(self, k) -> Boolean:
        """Whether the threads hold a row of K columns."""
        return k <= self.config.steps * self.config.threads * self.piece

    def column(self, thread: Int32, step: int) -> Int32:
        """The first column of a thread's piece."""
        return (step * self.config.threads + thread) * self.piece

    @cute.jit
    def add(self, words: cute.Tensor, mR: cute.Tensor, thread: Int32, row: Int32):
        """Adds the residual's row to that in ``words``, and writes the sum over it."""
        # Not the extent of the others: what follows from that would stay in registers, which are too few.
        k = mR.shape[1]
        more = self.load(mR, thread, row, k)
        for i in cutlass.range_constexpr(self.config.steps):
            added = elements.floats_of(words[None, i], self.dtype).load()
            added = added + elements.floats_of(more[None, i], self.dtype).load()
            own = cute.recast_tensor(words[None, i], self.dtype)
            own.store(added.to(self.dtype))
            if self.column(thread, i) < k:
                store(own, 0, self.piece, mR, (row, self.column(thread, i)))

    @cute.jit
    def mean_square(self, words: cute.Tensor, of_warps: cute.Tensor, thread: Int32, k: Int32) -> Float32:
        """The mean of the squares of a row, the same in all threads: sums of each in a fixed order."""
        total = Float32(0)
        for i in cutlass.range_constexpr(self.config.steps):
            values = elements.floats_of(words[None, i], self.dtype)
            for j in cutlass.range_constexpr(self.piece):
                total = cute.math.fma(values[j], values[j], total)
        for i in cutlass.range_constexpr(WARP.bit_length() - 1):
            total += cute.arch.shuffle_sync_bfly(total, 1 << i)
        of_warps[thread // WARP] = total
        cute.arch.sync_threads()
        total = of_warps[0]
        for i in cutlass.range_constexpr(1, self.warps):
            total += of_warps[i]
        return total * elements.inverse_of(Float32(k))
