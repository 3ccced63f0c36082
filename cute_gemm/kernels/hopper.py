"""Pieces Hopper kernels are built from: tiled MMA, shared-memory layouts, TMA atoms, the mbarrier ring."""

from dataclasses import dataclass
from enum import IntEnum

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64, const_expr, pipeline
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, warpgroup

from ..plan.limits import BLOCK_K

WARP = 32
WARPGROUP = 128
INIT_WARPS = 8  # as many as the smallest CTA has


class NamedBarrier(IntEnum):
    """Ids of the hardware's named barriers; 0 is ``sync_threads``. Math warpgroup w stores by STORE + w."""

    STORE = 1


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


def row_major_smem_layout(rows: int, columns: int, stages: int, dtype) -> cute.ComposedLayout:
    """``(rows, columns, stages)`` with contiguous rows, swizzled as widely as ``columns`` allows."""
    kinds = warpgroup.SmemLayoutAtomKind
    row_bits = columns * dtype.width
    widths = {1024: kinds.K_SW128, 512: kinds.K_SW64, 256: kinds.K_SW32}
    kind = next(kind for bits, kind in widths.items() if row_bits % bits == 0)
    atom = warpgroup.make_smem_layout_atom(kind, dtype)
    return cute.tile_to_shape(atom, (rows, columns, stages), order=(0, 1, 2))


def overlapping_stages(rows: int, stages: int, stage_rows: int, dtype) -> cute.ComposedLayout:
    """``(rows, BLOCK_K, stages)`` of stages that have ``stage_rows`` rows: any more are of the next ones."""
    whole = row_major_smem_layout(rows, BLOCK_K, 1, dtype)
    rows_columns = cute.select(whole.outer, mode=[0, 1])
    outer = cute.append(rows_columns, cute.make_layout(stages, stride=stage_rows * BLOCK_K))
    return cute.make_composed_layout(whole.inner, 0, outer)


def tma_load(tensor: cute.Tensor, smem_layout, tile: tuple, multicast: bool = False):
    """TMA atom and coordinate tensor that load a ``tile`` of ``tensor``, with ``multicast`` for several CTAs.

    The whole tile comes by one load. Where each of two CTAs loaded half of it for both, dense GEMMs of 4096
    rows took 0.6 to 0.9 % longer; but where each of four did a quarter, few rows took up to 2 % less
    (2026-11-25).
    """
    op = cpasync.CopyBulkTensorTileG2SMulticastOp() if multicast else cpasync.CopyBulkTensorTileG2SOp()
    stage_layout = cute.slice_(smem_layout, (None, None, 0))
    return cpasync.make_tiled_tma_atom(op, tensor, stage_layout, tile)


def along_k(
    atom, matrices: cute.Tensor, smem: cute.Tensor, rows: int, first_row, matrix, depth: int = BLOCK_K
):
    """Where ``atom`` loads ``rows`` rows of one of the ``matrices`` to, and from, k-block by k-block.

    Returns:
        (TMA, stages) of ``smem`` and (TMA, restK) of the matrix, of which a k-block is ``depth`` columns.
    """
    tile = cute.local_tile(
        cute.domain_offset((first_row, 0, 0), matrices), (rows, depth), (0, None, matrix)
    )  # (rows, depth, restK)
    return cpasync.tma_partition(
        atom, 0, cute.make_layout(1), cute.group_modes(smem, 0, 2), cute.group_modes(tile, 0, 2)
    )


def tma_store(tensor: cute.Tensor, smem_layout, tile: tuple):
    """TMA atom and coordinate tensor that store a ``tile`` of shared memory to ``tensor``."""
    stage_layout = cute.slice_(smem_layout, (None, None, 0))
    return cpasync.make_tiled_tma_atom(cpasync.CopyBulkTensorTileS2GOp(), tensor, stage_layout, tile)


def l2_policy(leaves_first) -> Int64:
    """The cache policy, as `createpolicy` encodes it, of lines that leave L2 first, or as others do."""
    return cutlass.select_(leaves_first != 0, Int64(0x12F0000000000000), Int64(0x1000000000000000))


def as_matrices(tensor: cute.Tensor) -> cute.Tensor:
    """(rows, columns) or (matrices, rows, columns) as (rows, columns, matrices)."""
    if len(tensor.shape) == 2:
        layout = cute.append(tensor.layout, cute.make_layout(1, stride=0))
    else:
        layout = cute.select(tensor.layout, mode=[1, 2, 0])
    return cute.make_tensor(tensor.iterator, layout)


class Mbarriers(pipeline.MbarrierArray):
    """Mbarriers that the first warps of a CTA initialise, in turns.

    One warp took 23 cycles for each of up to 40. Its lanes cannot share them out, as the instruction takes
    its address from a uniform register (2026-11-24).
    """

    @cute.jit
    def mbarrier_init(self, *, loc=None, ip=None):
        """Called by all threads, when the barriers are made."""
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        for first in range(0, self.num_stages, INIT_WARPS):
            if warp < min(INIT_WARPS, self.num_stages - first):
                with cute.arch.elect_one():
                    cute.arch.mbarrier_init(self.get_barrier(first + warp), self.arrive_count)


def make_mbarriers(
    storage, stages: int, producer: tuple, consumer: tuple, tx_count: int = 0
) -> tuple[Mbarriers, Mbarriers]:
    """The barriers of a ring, full and empty; of each, what arrives there and how often per phase."""
    full, empty = (
        (op, pipeline.CooperativeGroup(pipeline.Agent.Thread, arrivals))
        for op, arrivals in (producer, consumer)
    )
    return Mbarriers(storage, stages, full, tx_count), Mbarriers(storage + stages, stages, empty)


@dataclass(frozen=True)
class Ring(pipeline.PipelineTmaAsync):
    """The mbarrier ring between TMA and the math warpgroups, whose stages may also be passed over."""

    first_empty: Int32 | None
    """Address of stage 0's empty barrier in the CTA that the calling lane tells; None without peers."""

    @cute.jit
    def consumer_release(self, state):
        """Gives a stage back. The peer's address is mapped once, not in every k-block."""
        if const_expr(self.first_empty is None):
            pipeline.PipelineTmaAsync.consumer_release(self, state)
        else:
            if self.is_signaling_thread:
                address = self.first_empty + 8 * state.index
                cute.arch.mbarrier_arrive(cute.make_ptr(Int64, address, cutlass.AddressSpace.dsmem))

    @cute.jit
    def pass_over(self, state):
        """In place of filling a stage: its consumers find nothing in it, and give it back all the same."""
        self.sync_object_empty.wait(state.index, state.phase)
        with cute.arch.elect_one():
            cute.arch.mbarrier_arrive(self.producer_get_barrier(state))


def make_ring(storage, stages: int, stage_bytes: int, math_warps: int, cluster_mn: tuple, tidx) -> Ring:
    """The ring of one CTA; arrivals per phase:

    - full: one, of the TMA warp, which also announces the ``stage_bytes`` that will come, or passes over;
    - empty: one of each math warp of each CTA that shares an operand with this CTA by multicast.
    """
    sharing_ctas = cluster_mn[0] + cluster_mn[1] - 1
    full, empty = make_mbarriers(
        storage,
        stages,
        (pipeline.PipelineOp.TmaLoad, 1),
        (pipeline.PipelineOp.AsyncThread, math_warps * sharing_ctas),
        stage_bytes,
    )
    if sharing_ctas == 1:
        told, tells, first_empty = None, cute.arch.lane_idx() == 0, None
    else:
        cluster = cute.make_layout((1, *cluster_mn, 1))
        told, tells = pipeline.PipelineTmaAsync.init_empty_barrier_arrive_signal(cluster, tidx)
        first_empty = hide_lane(cute.arch.map_dsmem_ptr(storage + stages, told).toint())
    return Ring(full, empty, stages, None, told, tells, first_empty)


# The compiler re-derives what it can compute (thread ids, shared-memory addresses) inside loops, on the
# critical path between two WGMMAs. A shuffle gives a value an unknown origin: it stays in a register.


def hide(value):
    """The same warp-uniform value, of unknown origin."""
    return cute.arch.shuffle_sync(value, 0)


def hide_lane(value):
    """The same value, which may differ from lane to lane, of unknown origin."""
    return cute.arch.shuffle_sync(value, cute.arch.lane_idx())


def hidden_tensor(storage, layout: cute.ComposedLayout, dtype) -> cute.Tensor:
    """A swizzled tensor in shared memory whose base address is of unknown origin."""
    address = hide(storage.data_ptr().toint())
    pointer = cute.make_ptr(dtype, address, cutlass.AddressSpace.smem, assumed_align=1024)
    return cute.make_tensor(cute.recast_ptr(pointer, layout.inner, dtype=dtype), layout.outer)
