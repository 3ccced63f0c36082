"""What the versions of the CuTe DSL have by different names, or not at all: 4.6.2 to 4.8.

Here it has one name and takes what the newest version takes. Where an older one has nothing, a file beside
this one does the same.

    4.8    stores of four words to another CTA; `SmemAllocator`, `TensorMapManager` moved from `cutlass.utils`
    4.7    tensor maps, `GridConstant`, arrivals with the scope of a cluster
"""

from cutlass.cute.arch import mbarrier_arrive, store_async_dsmem

try:
    from cutlass import GridConstant
    from cutlass.experimental.cuda import (
        TensorMap,
        TensorMapL2Promotion,
        TensorMapSwizzle,
        create_tensor_map_tiled,
    )
    from cutlass.experimental.primitives.nvvm_wrapper import prefetch_tensormap
except ImportError:
    from cutlass.base_dsl.typing import GridConstant

    from .encoded_map import (
        TensorMap,
        TensorMapL2Promotion,
        TensorMapSwizzle,
        create_tensor_map_tiled,
        prefetch_tensormap,
    )
    from .remote import mbarrier_arrive

try:
    from cutlass.memory import SmemAllocator
    from cutlass.tensor_utils import TensorMapManager, TensorMapUpdateMode
except ImportError:
    from cutlass.utils import SmemAllocator, TensorMapManager, TensorMapUpdateMode

    from .remote import store_async_dsmem

__all__ = [
    "GridConstant",
    "SmemAllocator",
    "TensorMap",
    "TensorMapL2Promotion",
    "TensorMapManager",
    "TensorMapSwizzle",
    "TensorMapUpdateMode",
    "create_tensor_map_tiled",
    "mbarrier_arrive",
    "prefetch_tensormap",
    "store_async_dsmem",
]
