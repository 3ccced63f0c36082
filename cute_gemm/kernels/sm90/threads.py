"""Sizes of groups of threads, and the ids of the hardware's named barriers."""

from enum import IntEnum

WARP = 32
WARPGROUP = 128


class NamedBarrier(IntEnum):
    """Ids of named barriers; 0 is ``sync_threads``. Math warpgroup w stores by STORE + w."""

    STORE = 1
