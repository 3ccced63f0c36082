"""Limits of Hopper, of TMA and of the kernels: numbers that rules, candidates and kernels share."""

from __future__ import annotations

H100_SMS = 132
"""Multiprocessors of an H100 or H200 (SXM): what is assumed where no device is asked."""

SMEM_CAPACITY = 227 * 1024
"""Shared memory one CTA may use on sm_90, in bytes."""

STATIC_SMEM = 1024
"""What the compiler reserves of it in front of what a launch asks for, in bytes."""

BARRIER_SMEM = 1024
"""What mbarriers, the work queue and its broadcast slots take, aligned to what swizzled tiles are. A table of
groups, where a scheduler has one, and staged scales lie between them and those tiles."""

MMA_M = 64
"""Rows of one WGMMA: an m-fragment."""

MAX_EXTENT = 2**31 - 1024
"""Largest size of a dimension: kernels have 32-bit coordinates, and a cluster's tiles may end beyond it."""

MAX_SCALE_SPAN = 2**31 - 1
"""Largest offset of a scale from the first, in elements: 32-bit in a kernel."""

TMA_ALIGNMENT = 16
"""Bytes that addresses and strides of a tensor map are multiples of."""

SCALE_BYTES = 4
"""Size of a scale, which is FP32."""

SCALE_STRIDE_MULTIPLE = TMA_ALIGNMENT // SCALE_BYTES
"""Elements that strides of scales are multiples of where TMA loads them."""

STRIDE_END = 2**40
"""Bytes that a stride of a tensor map stays below."""

MAX_GROUPS = 1022
"""Most groups of one call."""

TABLE_SMEM = 4 * (MAX_GROUPS + 2)
"""What a scheduler's table of groups takes, in bytes: an Int32 for each, one for all, one to fill 4 KiB."""

CONTIGUOUS_ALIGNMENT = 128
"""Rows that a group's first row is aligned to in the contiguous layout."""

MAX_ALIGNMENT = 2**31 - MAX_EXTENT
"""Largest alignment of groups by offsets, 1024: the last row, rounded up to it, has 32 bits in kernels."""

N_MULTIPLE = 8
"""Columns of D come in multiples of it: its rows are 16 bytes apart."""

K_MULTIPLE = 16
"""Elements of K come in multiples of it: rows of e4m3 are 16 bytes apart."""

EXCHANGE_SLOTS = 2
"""What CTAs say of rows of which each has some columns may be on its way so many times over."""

SEMAPHORE_WORDS = 2
"""32-bit words of a semaphore: one counts the tiles drawn from it, one the clusters that draw no more."""

OUT_BYTES = {"bfloat16": 2, "float32": 4}
"""Supported output types and their size in bytes."""

QUANTIZED = "float8_e4m3fn"
"""The type of what an epilogue quantises, which is stored beside scales."""

STORED_BYTES = OUT_BYTES | {QUANTIZED: 1}
"""Types that kernels store and their size in bytes."""


def ceil_div(a: int, b: int) -> int:
    """Smallest integer not below ``a / b``, for non-negative ``a`` and positive ``b``."""
    return -(-a // b)
