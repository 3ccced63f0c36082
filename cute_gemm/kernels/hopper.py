"""Pieces every Hopper kernel here is built from: tiled MMA, shared-memory layouts, TMA atoms, the mbarrier ring."""

from enum import IntEnum

import cutlass
import cutlass.cute as cute
from cutlass import pipeline
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, warpgroup

WARP = 32
WARPGROUP = 128


class NamedBarrier(IntEnum):
    """Ids of the hardware's named barriers; 0 belongs to ``sync_threads``. One store barrier per math warpgroup."""

    STORE = 1


@cute.jit
def smaller(a, b):
    return a if a < b else b


def hide(value):
    """The same warp-uniform value, of unknown origin: kept in a register instead of being re-derived in every loop."""
    return cute.arch.shuffle_sync(value, 0)


def hide_lane(value):
    """As :func:`hide`, for a value that differs from lane to lane."""
    return cute.arch.shuffle_sync(value, cute.arch.lane_idx())


def hidden_tensor(tensor_range, layout, dtype):
    """A shared-memory tensor whose base address is hidden from the compiler; see :func:`hide`."""
    address = hide(tensor_range.data_ptr().toint())
    pointer = cute.make_ptr(dtype, address, cutlass.AddressSpace.smem, assumed_align=1024 if isinstance(layout, cute.ComposedLayout) else 128)
    if isinstance(layout, cute.ComposedLayout):
        return cute.make_tensor(cute.recast_ptr(pointer, layout.inner, dtype=dtype), layout.outer)
    return cute.make_tensor(pointer, layout)


def fp8_mma(block_n: int) -> cute.TiledMma:
    """A one-warpgroup WGMMA of 64 x ``block_n`` x 32, e4m3 from K-major shared memory into FP32."""
    op = warpgroup.MmaF8Op(
        cutlass.Float8E4M3FN,
        cutlass.Float8E4M3FN,
        cutlass.Float32,
        (64, block_n, 32),
        warpgroup.OperandSource.SMEM,
        OperandMajorMode.K,
        OperandMajorMode.K,
    )
    return cute.make_tiled_mma(cute.make_mma_atom(op), (1, 1, 1))


def row_major_smem_layout(rows: int, cols: int, stages: int, dtype) -> cute.ComposedLayout:
    """``(rows, cols, stages)`` in shared memory, rows contiguous and swizzled as widely as ``cols`` allows."""
    kinds = warpgroup.SmemLayoutAtomKind
    row_bits = cols * dtype.width
    if row_bits % 1024 == 0:
        kind = kinds.K_SW128
    elif row_bits % 512 == 0:
        kind = kinds.K_SW64
    else:
        kind = kinds.K_SW32
    atom = warpgroup.make_smem_layout_atom(kind, dtype)
    return cute.tile_to_shape(atom, (rows, cols, stages), order=(0, 1, 2))


def tma_load(tensor: cute.Tensor, smem_layout, tile: tuple, multicast: int):
    """TMA atom and coordinate tensor that load a ``tile`` of ``tensor`` into ``multicast`` CTAs at once."""
    if multicast == 1:
        op = cpasync.CopyBulkTensorTileG2SOp()
    else:
        op = cpasync.CopyBulkTensorTileG2SMulticastOp()
    stage_layout = cute.slice_(smem_layout, (None, None, 0))
    return cpasync.make_tiled_tma_atom(op, tensor, stage_layout, tile, num_multicast=multicast)


def tma_store(tensor: cute.Tensor, smem_layout, tile: tuple):
    """TMA atom and coordinate tensor that store a ``tile`` of shared memory to ``tensor``."""
    stage_layout = cute.slice_(smem_layout, (None, None, 0))
    return cpasync.make_tiled_tma_atom(cpasync.CopyBulkTensorTileS2GOp(), tensor, stage_layout, tile)


def make_ring(storage, stages: int, tx_count: int, math_warps: int, cluster_mn: tuple, tidx) -> pipeline.PipelineTmaAsync:
    """The full/empty mbarrier ring between producers and math warpgroups; its arrive counts per phase:

    - full: 1 arrive-and-expect by the TMA warp + 32 by the lanes of the scale warp, + ``tx_count`` bytes;
    - empty: 1 by each math warp of each CTA that shares an operand of this CTA by multicast.
    """
    sharing = cluster_mn[0] + cluster_mn[1] - 1
    return pipeline.PipelineTmaAsync.create(
        barrier_storage=storage,
        num_stages=stages,
        producer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread),
        consumer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread, math_warps * sharing),
        tx_count=tx_count,
        cta_layout_vmnk=cute.make_layout((1, *cluster_mn, 1)),
        tidx=tidx,
        defer_sync=True,
    )
