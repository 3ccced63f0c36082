"""Adds up, for each token, the rows that experts made of it, in the order of its choices.

A thread has 16 bytes of a token's row, and asks for those of several rows before it adds any. Sums are in
FP32; their order is that of choices, whatever a batch holds beside.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32, Int64, Uint32, const_expr

from ...plan.launch_policy import LaunchFlags
from ...plan.limits import MAX_EXTENT
from ...plan.moe import CombineConfig
from ...plan.quantizer import PIECE
from ..preconditions import are_apart, report
from ..quantize import elements
from ..quantize.by_rows import DTYPES
from ..quantize.memory import load, matrix_of, store
from ..quantize.preconditions import are_aligned, do_not_meet
from ..sm90.tma import as_matrices

THREADS = 128
AT_ONCE = 8
"""Rows that a thread asks for before it adds them."""


class CombineRows:
    """The kernel of one :class:`CombineConfig`; all extents and strides arrive with a call."""

    def __init__(self, config: CombineConfig):
        self.config = config
        self.dtype = DTYPES[config.dtype]
        self.piece = PIECE * 8 // self.dtype.width

    @cute.jit
    def __call__(self, mRows, gPlaces, mOut, flags: Int32, status: Int64, stream, *base):
        """Checks a call's tensors, and launches on ``stream``.

        Args:
            mRows: (rows, N), N contiguous, what experts made.
            gPlaces: Int32 (tokens * choices,): the row of each choice, or one that there is not.
            mOut: (tokens, N), N contiguous: is written.
            flags, status: as of ``Fp8Gemm1D2D``.
            base: (tokens, N), if something is added to each sum.
        """
        mRows, mOut, *base = (as_matrices(tensor) for tensor in (mRows, mOut, *base))
        go = Boolean(True)
        if status != 0:
            go = self.hold(mRows, gPlaces, mOut, tuple(base))
            report(status, Int32(go))
        if go:
            self.start(*(matrix_of(each, Int32(0)) for each in (mRows, mOut, *base)), gPlaces, flags, stream)

    def start(self, mRows, mOut, *rest):
        """Launches the kernel for matrices (rows, columns) that are in order."""
        *base, gPlaces, flags, stream = rest
        tokens, columns = mOut.shape
        pieces, choices = columns // self.piece, gPlaces.shape[0] // tokens
        self.kernel(mRows, gPlaces, mOut, tuple(base), choices, cute.FastDivmodDivisorV2(pieces)).launch(
            grid=(cute.ceil_div(tokens * pieces, THREADS), 1, 1),
            block=(THREADS, 1, 1),
            stream=stream,
            use_pdl=flags & LaunchFlags.PDL,
        )

    @cute.jit
    def hold(self, mRows, gPlaces, mOut, base: tuple) -> Boolean:
        """Whether tensors are in order without a closer look."""
        tokens, columns, _ = mOut.shape
        fits = tokens > 0 and columns > 0 and columns % self.piece == 0 and mRows.shape[0] > 0
        fits = fits and mRows.shape[0] <= MAX_EXTENT and Int64(tokens) * columns <= MAX_EXTENT
        fits = fits and gPlaces.shape[0] > 0 and gPlaces.shape[0] % cutlass.max(tokens, 1) == 0
        fits = fits and are_apart(mOut)
        for each in (mRows, mOut, *base):
            fits = fits and are_aligned(each)
        for each in (mRows, gPlaces, *base):
            fits = fits and do_not_meet(each, mOut)
        return fits

    @cute.kernel
    def kernel(self, mRows, gPlaces, mOut, base: tuple, choices: Int32, pieces: cute.FastDivmodDivisorV2):
        number = cute.arch.block_idx()[0] * THREADS + cute.arch.thread_idx()[0]
        token, piece = divmod(number, pieces)
        column = piece * self.piece
        cute.arch.griddepcontrol_wait()
        cute.arch.griddepcontrol_launch_dependents()
        if token < mOut.shape[0]:
            sums = cute.make_rmem_tensor(self.piece, Float32)
            sums.fill(0.0)
            words = cute.make_rmem_tensor((PIECE // 4, AT_ONCE), Uint32)
            if const_expr(self.config.has_base):
                load(words[None, 0], base[0], (token, column))
                sums.store(elements.floats_of(words[None, 0], self.dtype).load())
            for first in cutlass.range(0, choices, AT_ONCE, unroll=1):
                words.fill(0)
                for i in cutlass.range_constexpr(AT_ONCE):
                    if first + i < choices:
                        row = gPlaces[token * choices + first + i]
                        if row >= 0 and row < mRows.shape[0]:
                            load(words[None, i], mRows, (row, column))
                for i in cutlass.range_constexpr(AT_ONCE):
                    sums.store(sums.load() + elements.floats_of(words[None, i], self.dtype).load())
            result = cute.make_rmem_tensor(self.piece, self.dtype)
            result.store(sums.load().to(self.dtype))
            store(result, 0, self.piece, mOut, (token, column))
