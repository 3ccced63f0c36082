"""TMA: atoms that load and store tiles, where a load's parts lie along K, and what L2 does with the lines."""

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64
from cutlass.cute.nvgpu import cpasync

from .smem import OperandTile

EVICT_NORMAL = 0x1000000000000000
EVICT_FIRST = 0x12F0000000000000
"""Cache policies of loads, as ``createpolicy`` encodes them (CUTLASS: ``TMA::CacheHintSm90``)."""


def l2_policy(evict_first) -> Int64:
    """The cache policy of lines that leave L2 first, where ``evict_first`` is not 0, or as others do."""
    return cutlass.select_(evict_first != 0, Int64(EVICT_FIRST), Int64(EVICT_NORMAL))


def as_matrices(tensor: cute.Tensor) -> cute.Tensor:
    """(rows, columns) or (matrices, rows, columns) as (rows, columns, matrices)."""
    if len(tensor.shape) == 2:
        layout = cute.append(tensor.layout, cute.make_layout(1, stride=0))
    else:
        layout = cute.select(tensor.layout, mode=[1, 2, 0])
    return cute.make_tensor(tensor.iterator, layout)


def load_atom(tensor: cute.Tensor, smem_layout, tile: tuple, multicast: bool = False):
    """TMA atom and coordinate tensor that load a ``tile`` of ``tensor``, with ``multicast`` for several CTAs.

    The whole tile comes by one load of one CTA. Shares of it by each CTA are slower for many rows, and a
    little faster for few (docs/performance.md, 46).
    """
    op = cpasync.CopyBulkTensorTileG2SMulticastOp() if multicast else cpasync.CopyBulkTensorTileG2SOp()
    stage_layout = cute.slice_(smem_layout, (None, None, 0))
    return cpasync.make_tiled_tma_atom(op, tensor, stage_layout, tile)


def store_atom(tensor: cute.Tensor, smem_layout, tile: tuple, adds: bool = False):
    """TMA atom and coordinate tensor that store a ``tile`` of shared memory to ``tensor``, or add it."""
    op = cpasync.CopyReduceBulkTensorTileS2GOp() if adds else cpasync.CopyBulkTensorTileS2GOp()
    stage_layout = cute.slice_(smem_layout, (None, None, 0))
    return cpasync.make_tiled_tma_atom(op, tensor, stage_layout, tile)


def along_k(
    atom, matrices: cute.Tensor, smem: cute.Tensor, tile: tuple[int, int], first_row, matrix, first_column=0
):
    """Where ``atom`` loads to and from, ``tile`` by tile along K, from ``first_row`` of one matrix on.

    Args:
        matrices: (rows, columns, matrices), by TMA's coordinates.
        smem: (rows of the tile, its columns, stages).
        tile: rows and columns of what one load brings.
        first_column: where the first tile begins; it may lie before the matrix, if that tile is not loaded.

    Returns:
        (TMA, stages) of ``smem``, and (TMA, restK) of the matrix.
    """
    from_row = cute.domain_offset((first_row, first_column, 0), matrices)
    tiles = cute.local_tile(from_row, tile, (0, None, matrix))  # (rows, columns, restK)
    return cpasync.tma_partition(
        atom, 0, cute.make_layout(1), cute.group_modes(smem, 0, 2), cute.group_modes(tiles, 0, 2)
    )


@dataclass(frozen=True)
class TmaLoad:
    """How the tiles of an operand are loaded: an argument of a kernel.

    Args:
        atom: TMA's copy.
        matrices: TMA's coordinates (rows, columns, matrices) of the operand.
        policy: cache policy of the loads.
    """

    atom: cute.CopyAtom
    matrices: cute.Tensor
    policy: Int64

    @staticmethod
    def of(matrices: cute.Tensor, tile: OperandTile, peers: int, evict_first) -> "TmaLoad":
        """Loads of ``tile``, for ``peers`` CTAs of a cluster at once; made on the host."""
        assert matrices.element_type is tile.dtype, "the operand is not of the recipe's type"
        atom, coordinates = load_atom(matrices, tile.layout, (tile.rows, tile.depth), peers > 1)
        return TmaLoad(atom, coordinates, l2_policy(evict_first))

    def along_k(self, smem: cute.Tensor, tile: OperandTile, first_row, matrix, first_column=0):
        """As :func:`along_k`."""
        box = tile.rows, tile.depth
        return along_k(self.atom, self.matrices, smem, box, first_row, matrix, first_column)

    @cute.jit
    def fetch(self, smem: cute.Tensor, tile: OperandTile, first_row, matrix, first: Int32, count: Int32):
        """Has L2 fetch ``count`` tiles along K, from the one numbered ``first`` on; the work of a warp."""
        _, parts = self.along_k(smem, tile, first_row, matrix)
        for k in cutlass.range(first, first + count, unroll=1):
            cute.prefetch(self.atom, parts[None, k])
