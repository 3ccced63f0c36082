"""Sizes of groups of threads, and the ids of the hardware's named barriers."""

from enum import IntEnum

WARP = 32
WARPGROUP = 128


class NamedBarrier(IntEnum):
    """Ids of named barriers; 0 is ``sync_threads``. Of each, math warpgroup w has the one at + w."""

    STORE = 1
    LOADED = 3
    SUMMED = 5
