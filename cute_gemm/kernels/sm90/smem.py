"""Tiles in shared memory, swizzled as TMA and WGMMA both know them."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.cute.nvgpu import OperandMajorMode, warpgroup

from .opaque import hidden_tensor
from .threads import WARPGROUP


def swizzle_bytes(contiguous: int, dtype) -> int:
    """Bytes of a swizzled row: the most of 128, 64 and 32 that divide ``contiguous`` elements."""
    row_bytes = contiguous * dtype.width // 8
    return next(width for width in (128, 64, 32) if row_bytes % width == 0)


def swizzled_layout(
    rows: int, columns: int, stages: int, dtype, major: OperandMajorMode = OperandMajorMode.K
) -> cute.ComposedLayout:
    """``(rows, columns, stages)``, swizzled as widely as the contiguous dimension allows.

    That is ``columns`` with ``OperandMajorMode.K``, else ``rows``.
    """
    k_major = major == OperandMajorMode.K
    width = swizzle_bytes(columns if k_major else rows, dtype)
    kind = warpgroup.SmemLayoutAtomKind[f"{'K' if k_major else 'MN'}_SW{width}"]
    atom = warpgroup.make_smem_layout_atom(kind, dtype)
    return cute.tile_to_shape(atom, (rows, columns, stages), order=(0, 1, 2) if k_major else (1, 0, 2))


@dataclass(frozen=True)
class OperandTile:
    """What the stages of a ring hold of one operand.

    Args:
        rows: rows of A, or of B, in one stage.
        depth: elements along K in one stage.
        stages: of the ring.
        dtype: the DSL's type of an element.
        major: the dimension that is contiguous.
    """

    rows: int
    depth: int
    stages: int
    dtype: type
    major: OperandMajorMode = OperandMajorMode.K

    @property
    def layout(self) -> cute.ComposedLayout:
        """(rows, depth, stages)."""
        return swizzled_layout(self.rows, self.depth, self.stages, self.dtype, self.major)

    @property
    def storage(self):
        """Shared memory of all stages, as a field of a ``cute.struct``."""
        return cute.struct.Align[cute.struct.MemRange[self.dtype, cute.cosize(self.layout)], 1024]

    @property
    def stage_bytes(self) -> int:
        """Of one stage."""
        return self.rows * self.depth * self.dtype.width // 8

    @property
    def swizzle_bytes(self) -> int:
        """Of a swizzled row."""
        return swizzle_bytes(self.depth if self.major == OperandMajorMode.K else self.rows, self.dtype)

    def open(self, storage) -> cute.Tensor:
        """(rows, depth, stages) in ``storage``."""
        return hidden_tensor(storage, self.layout, self.dtype)

    def open_rows(self, storage, rows: int) -> cute.Tensor:
        """(rows, depth, stages), where ``rows`` may be more than a stage has: those of the next ones.

        What lies behind the last stage is read as well, so it must be shared memory of this CTA.
        """
        whole = swizzled_layout(rows, self.depth, 1, self.dtype, self.major)
        one_stage = cute.select(whole.outer, mode=[0, 1])
        stages = cute.make_layout(self.stages, stride=self.rows * self.depth)
        layout = cute.make_composed_layout(whole.inner, 0, cute.append(one_stage, stages))
        return hidden_tensor(storage, layout, self.dtype)


UNIT_BYTES = 16
"""What a swizzle moves as a whole."""


def place_of_unit(row: Int32, unit: Int32) -> Int32:
    """Where the unit of that number is, from the start of a stage of rows of 128 swizzled bytes."""
    return row * 128 + UNIT_BYTES * (unit ^ (row % 8))


@cute.jit
def zero_columns(tile: cute.Tensor, first: Int32, stage: Int32, thread: Int32):
    """Writes zeros to the columns of one stage from ``first`` on; the work of a warpgroup.

    Args:
        tile: (rows, columns, stages) of bytes, whose rows of 128 bytes are swizzled.
        first: a multiple of 16.
        stage: which.
        thread: the calling thread of the warpgroup.
    """
    rows, columns, _ = tile.shape
    rows, columns = cute.size(rows), cute.size(columns)
    assert columns == 128, "other rows are swizzled otherwise"
    base = tile.iterator.toint() + cute.crd2idx((0, 0, stage), tile.layout)
    for turn in cutlass.range_constexpr(-(-rows // WARPGROUP)):
        row = turn * WARPGROUP + thread
        if row < rows:
            for unit in cutlass.range(first // UNIT_BYTES, columns // UNIT_BYTES, unroll=1):
                address = base + place_of_unit(row, unit)
                pointer = cute.make_ptr(Int32, address, cutlass.AddressSpace.smem, assumed_align=UNIT_BYTES)
                zeros = cute.make_rmem_tensor(UNIT_BYTES // 4, Int32)
                zeros.fill(0)
                cute.autovec_copy(zeros, cute.make_tensor(pointer, cute.make_layout(UNIT_BYTES // 4)))
