"""WGMMA of one warpgroup: the instruction, and which thread has which element of its result.

A fragment is what one WGMMA gives: 64 rows by n columns in FP32, n / 2 registers in each of 128 threads.
Lane l of warp w has rows 16 w + l / 4 and the one eight below, and of both columns 8 j + 2 (l % 4) and the
next one, for j from 0 on: the upper row in registers 4 j and 4 j + 1, the lower in 4 j + 2 and 4 j + 3.
"""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.cute.nvgpu import OperandMajorMode, warpgroup

from ...plan.limits import MMA_M
from .threads import WARP, WARPGROUP

INSTRUCTION_BITS = 256
"""Depth of one WGMMA: 32 bytes of each row of an operand."""

QUAD = 4
"""Lanes that have the same rows of a fragment, and between them eight columns."""


@dataclass(frozen=True)
class Wgmma:
    """The MMA of 64 x ``n`` of one warpgroup: operands in shared memory, sums in FP32.

    Args:
        n: columns: a multiple of 8, at most 256.
        a_dtype, b_dtype: of the operands, by the DSL's types: of 8 or of 16 bits, both alike.
        a_major, b_major: the dimension of an operand that is contiguous. Those of 8 bits must be K-major.
    """

    n: int
    a_dtype: type
    b_dtype: type
    a_major: OperandMajorMode = OperandMajorMode.K
    b_major: OperandMajorMode = OperandMajorMode.K

    def tiled(self) -> cute.TiledMma:
        """A fresh tiled MMA: one whose ACCUMULATE field is set in a loop's body cannot be used after it."""
        shape = MMA_M, self.n, INSTRUCTION_BITS // self.a_dtype.width
        options = cutlass.Float32, shape, warpgroup.OperandSource.SMEM, self.a_major, self.b_major
        if self.a_dtype.width == 8:
            op = warpgroup.MmaF8Op(self.a_dtype, self.b_dtype, *options)
        else:
            assert self.a_dtype is self.b_dtype, "operands of 16 bits have one type"
            op = warpgroup.MmaF16BF16Op(self.a_dtype, *options)
        return cute.make_tiled_mma(cute.make_mma_atom(op), (1, 1, 1))

    def fragment(self) -> cute.Tensor:
        """Registers for one fragment, without values."""
        return cute.make_rmem_tensor(self.tiled().partition_shape_C((MMA_M, self.n)), cutlass.Float32)


def fragment_mma(n: int) -> cute.TiledMma:
    """An MMA that is never issued: its C layout is that of any fragment of ``n`` columns."""
    return Wgmma(n, cutlass.BFloat16, cutlass.BFloat16).tiled()


def thread_row(first: Int32, thread: Int32) -> Int32:
    """The row of register 0 of ``thread``, of a fragment whose first row is ``first``.

    Added in another order, it is compiled to other code (docs/performance.md, 73).
    """
    return first + thread % WARPGROUP // WARP * 16 + thread % WARP // 4


def thread_column(first: Int32, thread: Int32) -> Int32:
    """The column of register 0 of ``thread``, of a fragment whose first column is ``first``."""
    return first + thread % 4 * 2


def columns_of(registers: cute.Tensor) -> int:
    """Columns of a fragment that a thread's ``registers`` are of."""
    return cute.size(registers) * 2


def row_offset(element: int) -> int:
    """Rows between a thread's first element and the given one: 0 or 8."""
    return 8 * (element // 2 % 2)


def column_offset(element: int) -> int:
    """Columns between a thread's first element and the given one."""
    return 8 * (element // 4) + element % 2
