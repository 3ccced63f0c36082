"""Which thread has which element of a fragment, how operands lie in shared memory: asked of DSL layouts."""

import cutlass
import cutlass.cute as cute
import pytest
import torch
from cutlass.cute.nvgpu import OperandMajorMode
from cutlass.cute.runtime import from_dlpack

from cute_gemm.kernels.sm90.mma import (
    column_offset,
    fragment_mma,
    row_offset,
    thread_column,
    thread_row,
)
from cute_gemm.kernels.sm90.smem import UNIT_BYTES, OperandTile, place_of_unit
from cute_gemm.runtime.compiler import ARCH

N = 48


def test_registers_are_of_the_elements_that_wgmma_gives_them() -> None:
    @cute.jit
    def elements(out: cute.Tensor):
        mma, whole = fragment_mma(N), cute.make_identity_tensor((64, N))
        for thread in cutlass.range(128, unroll=1):
            own = mma.get_slice(thread).partition_C(whole)
            for i in cutlass.range_constexpr(cute.size(own)):
                row, column = own[i]
                out[thread, i, 0], out[thread, i, 1] = row, column
                out[thread, i, 2] = thread_row(100, thread) + row_offset(i)
                out[thread, i, 3] = thread_column(1000, thread) + column_offset(i)

    out = torch.full((128, N // 2, 4), -1, dtype=torch.int32)
    argument = from_dlpack(out)
    cute.compile(elements, argument, options=f"--gpu-arch {ARCH}")(argument)
    assert torch.equal(out[..., 2] - 100, out[..., 0])
    assert torch.equal(out[..., 3] - 1000, out[..., 1])
    assert len(out[..., :2].reshape(-1, 2).unique(dim=0)) == 64 * N


@pytest.mark.parametrize(
    ("rows", "depth", "dtype", "major", "swizzle"),
    [
        (128, 128, cutlass.Float8E4M3FN, OperandMajorMode.K, 128),
        (48, 64, cutlass.Float8E4M3FN, OperandMajorMode.K, 64),
        (128, 64, cutlass.BFloat16, OperandMajorMode.K, 128),
        (96, 64, cutlass.BFloat16, OperandMajorMode.MN, 64),
        (128, 64, cutlass.BFloat16, OperandMajorMode.MN, 128),
    ],
)
def test_stages_of_any_type_and_major(
    rows: int, depth: int, dtype: type, major: OperandMajorMode, swizzle: int
) -> None:
    """Each element has a place of its own, and those of a swizzled row follow each other."""
    tile = OperandTile(rows, depth, 3, dtype, major)
    run = swizzle * 8 // dtype.width

    @cute.jit
    def places(out: cute.Tensor):
        layout = tile.layout
        for i in cutlass.range(rows, unroll=1):
            for j in cutlass.range(depth, unroll=1):
                for stage in cutlass.range(tile.stages, unroll=1):
                    out[i, j, stage] = layout.outer((i, j, stage))

    out = torch.full((rows, depth, tile.stages), -1, dtype=torch.int32)
    argument = from_dlpack(out)
    cute.compile(places, argument)(argument)
    assert tile.swizzle_bytes == swizzle
    assert sorted(out.flatten().tolist()) == list(range(out.numel()))
    assert tile.stage_bytes == rows * depth * dtype.width // 8
    along = out.permute(2, 1, 0) if major == OperandMajorMode.MN else out.permute(2, 0, 1)
    runs = along.unflatten(-1, (-1, run))
    assert (runs.diff(dim=-1) == 1).all()


def test_units_of_a_swizzled_row_are_where_the_layout_has_them() -> None:
    """From the first row of a warpgroup on, too: what is written by address is what WGMMA reads."""
    rows, stages, units = 256, 3, 128 // UNIT_BYTES
    tile = OperandTile(rows, 128, stages, cutlass.Float8E4M3FN)

    @cute.jit
    def places(out: cute.Tensor):
        layout = tile.layout
        for row in cutlass.range(rows, unroll=1):
            for unit in cutlass.range(units, unroll=1):
                for stage in cutlass.range(stages, unroll=1):
                    out[row, unit, stage, 0] = layout((row, UNIT_BYTES * unit, stage))
                    within = row // 128 * 128 * 128 + place_of_unit(row % 128, unit)
                    out[row, unit, stage, 1] = stage * tile.stage_bytes + within

    out = torch.full((rows, units, stages, 2), -1, dtype=torch.int32)
    argument = from_dlpack(out)
    cute.compile(places, argument)(argument)
    assert torch.equal(out[..., 0], out[..., 1])
    assert len(out[..., 0].unique()) == rows * units * stages
