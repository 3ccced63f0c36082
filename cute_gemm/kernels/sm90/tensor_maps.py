"""Tensor maps by which L2 fetches 256 bytes where 128 are asked for; a TMA atom brings one for 128.

They take the DSL's experimental interface, which is why they have a file (docs/performance.md, 65).
"""

import cutlass
import cutlass.cute as cute
from cutlass import Int64

from ...dsl import (
    TensorMap,
    TensorMapL2Promotion,
    TensorMapManager,
    TensorMapSwizzle,
    TensorMapUpdateMode,
    create_tensor_map_tiled,
)
from ...plan.limits import TMA_ALIGNMENT
from .smem import OperandTile

MAP_BYTES = 128


def promoting_map(matrices: cute.Tensor, tile: OperandTile) -> TensorMap:
    """As the map of an atom that loads ``tile`` of K-major (rows, columns, matrices)."""
    bits = matrices.element_type.width
    extents = [matrices.shape[1], matrices.shape[0]]
    steps = [matrices.stride[0]]
    box = [tile.swizzle_bytes * 8 // bits, tile.rows]
    # An atom of one matrix has no coordinate for which.
    if not isinstance(matrices.shape[2], int):
        extents.append(matrices.shape[2])
        steps.append(matrices.stride[2])
        box.append(1)
    return create_tensor_map_tiled(
        matrices.iterator.toint(),
        matrices.element_type,
        extents,
        # A map has its steps in units of 16 bytes.
        [Int64(step) // (TMA_ALIGNMENT * 8 // bits) for step in steps],
        box,
        swizzle=TensorMapSwizzle[f"s{tile.swizzle_bytes}b"],
        l2_promotion=TensorMapL2Promotion.l2_256b,
    )


def pointers(maps: tuple[TensorMap, ...]) -> tuple[cute.Pointer | None, cute.Pointer | None]:
    """What copies of A and of B take for ``tma_desc_ptr``: their maps, or None for those of their atoms.

    Called in front of the roles: inside the TMA warp's it moves a load (docs/performance.md, 73).
    """
    if not maps:
        return None, None
    map_a, map_b = (_pointer(each) for each in maps)
    return map_a, map_b


def _pointer(tensor_map: TensorMap) -> cute.Pointer:
    address = cute.make_ptr(
        cutlass.Uint8,
        tensor_map.get_ptr().toint(),
        cutlass.AddressSpace.gmem,
        assumed_align=MAP_BYTES,
    )
    manager = TensorMapManager(TensorMapUpdateMode.GMEM, MAP_BYTES)
    return manager.get_tensormap_ptr(address, cutlass.AddressSpace.generic)
