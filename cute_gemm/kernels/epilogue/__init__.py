"""From whole FP32 sums to the output: a *value* says what becomes of them, a *store* where that goes.

A store applies the value to whole sums: one of partial sums does so when it has added them up.
"""

from .byte_store import ByteRowStore, ByteStore
from .chained_value import ChainedValue
from .cluster_byte_store import ClusterByteStore
from .cluster_sum_store import ClusterSumStore
from .quantized_value import QuantizedValue
from .row_store import RowStore
from .smem_add_store import SmemAddStore
from .store import Store
from .tma_add_store import TmaAddStore
from .tma_store import TmaStore
from .value import IDENTITY, Identity, Place, Shape, TileValue, Value

__all__ = [
    "IDENTITY",
    "ByteRowStore",
    "ByteStore",
    "ChainedValue",
    "ClusterByteStore",
    "ClusterSumStore",
    "Identity",
    "Place",
    "QuantizedValue",
    "RowStore",
    "Shape",
    "SmemAddStore",
    "Store",
    "TileValue",
    "TmaAddStore",
    "TmaStore",
    "Value",
]
