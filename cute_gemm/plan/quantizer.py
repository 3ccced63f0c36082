"""Which kernel quantises: from what is asked for to what is compiled. Pure Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from .limits import ceil_div

E4M3_MAX = 448.0
"""The largest magnitude that e4m3 holds: where the largest of a block comes to lie."""

SMALLEST_SCALE = 2.0**-126
"""The smallest normal FP32 number: a smaller scale would lose bits, and its inverse would overflow."""

BLOCK = 128
"""Elements along K, and rows of a weight, that share a scale."""

MAX_MATRICES = 65535
"""Most matrices of one call: a grid's second dimension."""

PIECE = 16
"""Bytes that a thread loads at once."""

_NORM_STEPS = ((256, 1), (512, 2), (2048, 4))
"""Pieces of a row, up to which each thread has so many of them. More take more than 64 registers."""

_WARP = 32

INTERLEAVE = 8
"""Columns of a gate, then as many of what it opens for, where they alternate."""

FEW_ELEMENTS = 1 << 20
"""Of a source, up to which each thread has part of one row: more threads than an H100 runs at once do not
come of it."""

_PASSES = 2

SOURCES = ("plain", "swiglu", "swiglu_interleaved")
"""What may be made of a matrix before it is quantised."""

SOURCE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Types that are quantised, and the size of their elements in bytes."""

SHORT_NAMES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
"""The same types in names of kernels."""


def _dtype_name(of: Any) -> str:
    """What of a quantiser's name says what it takes, such as ``bf16`` or ``bf16_3d``."""
    return SHORT_NAMES[of.dtype] + ("_3d" if of.has_matrices else "")


def _rows_names(of: Any) -> list[str]:
    """What says which rows, and of their scales."""
    parts = [of.rows] if of.rows != "all" else []
    parts += ["i64"] if of.index_dtype == "int64" else []
    return [*parts, "pow2"] if of.is_power_of_two else parts


def passes_for(elements: int) -> int:
    """Rows that each thread has part of, of a source with so many elements."""
    return 1 if elements <= FEW_ELEMENTS else _PASSES


@dataclass(frozen=True, slots=True)
class RowQuantizer:
    """What a kernel of :mod:`cute_gemm.kernels.quantize.by_rows` is compiled for.

    Args:
        dtype: of what is quantised, by the names of :data:`SOURCE_BYTES`.
        has_matrices: whether it comes as several matrices.
        source: what is made of it before, by the names of :data:`SOURCES`.
        rows: which of its rows, by the names of ``ROWS`` there.
        index_dtype: of the vector that says so, if there is one.
        is_power_of_two: whether scales are rounded up to powers of two.
        passes: rows that each thread has part of.
    """

    dtype: str
    has_matrices: bool = False
    source: str = "plain"
    rows: str = "all"
    index_dtype: str = "int32"
    is_power_of_two: bool = False
    passes: int = 2

    @property
    def name(self) -> str:
        """Such as ``quantize_1x128_bf16_swiglu_gathered_pow2_x2``."""
        parts = ["quantize_1x128", _dtype_name(self)]
        parts += [self.source] if self.source != "plain" else []
        return "_".join([*parts, *_rows_names(self), f"x{self.passes}"])


@dataclass(frozen=True, slots=True)
class BlockQuantizer:
    """What a kernel of :mod:`cute_gemm.kernels.quantize.by_blocks` is compiled for.

    Args:
        dtype: of what is quantised, by the names of :data:`SOURCE_BYTES`.
        has_matrices: whether it comes as several matrices.
        is_power_of_two: whether scales are rounded up to powers of two.
        is_transposed: whether rows of its result are contiguous, and columns of what is quantised.
    """

    dtype: str
    has_matrices: bool = False
    is_power_of_two: bool = False
    is_transposed: bool = False

    @property
    def name(self) -> str:
        """Such as ``quantize_128x128_bf16_transposed_pow2``."""
        parts = ["quantize_128x128", _dtype_name(self)]
        parts += ["transposed"] if self.is_transposed else []
        return "_".join([*parts, "pow2"] if self.is_power_of_two else parts)


@dataclass(frozen=True, slots=True)
class BothWaysQuantizer:
    """What a kernel of :mod:`cute_gemm.kernels.quantize.both_ways` is compiled for.

    Args:
        dtype, has_matrices, is_power_of_two: as of :class:`BlockQuantizer`.
        rows: where blocks of rows begin: ``"all"``, at multiples of 128; or, of a single matrix, where each
            group of rows does: ``"offsets"``, groups of multiples of 16, or ``"ends"``, of any size.
    """

    dtype: str
    has_matrices: bool = False
    is_power_of_two: bool = False
    rows: str = "all"

    @property
    def name(self) -> str:
        """Such as ``quantize_both_ways_bf16_offsets_pow2``."""
        parts = ["quantize_both_ways", _dtype_name(self)]
        parts += [self.rows] if self.rows != "all" else []
        return "_".join([*parts, "pow2"] if self.is_power_of_two else parts)


@dataclass(frozen=True, slots=True)
class NormQuantizer:
    """What a kernel of :mod:`cute_gemm.kernels.quantize.normed` is compiled for.

    Args:
        dtype, has_matrices, rows, index_dtype, is_power_of_two: as of :class:`RowQuantizer`.
        has_residual: whether one is added before.
        threads: that have a row, whole warps of them.
        steps: pieces of it that each has, a power of two of them.
    """

    dtype: str
    has_matrices: bool = False
    has_residual: bool = False
    rows: str = "all"
    index_dtype: str = "int32"
    is_power_of_two: bool = False
    threads: int = 256
    steps: int = 4

    @staticmethod
    def of(dtype: str, k: int, **features: Any) -> NormQuantizer | None:
        """For rows of K elements; None where they are too many for a CTA's registers."""
        pieces = ceil_div(k * SOURCE_BYTES[dtype], PIECE)
        for most, steps in _NORM_STEPS:
            if pieces <= most:
                threads = ceil_div(pieces, steps * _WARP) * _WARP
                return NormQuantizer(dtype, **features, threads=threads, steps=steps)
        return None

    @property
    def name(self) -> str:
        """Such as ``quantize_normed_bf16_residual_offsets_pow2_256x4``."""
        parts = ["quantize_normed", _dtype_name(self)]
        parts += ["residual"] if self.has_residual else []
        parts += _rows_names(self)
        return "_".join([*parts, f"{self.threads}x{self.steps}"])


Quantizer = RowQuantizer | BlockQuantizer | BothWaysQuantizer | NormQuantizer
"""Any of them."""

ROWS = ("all", "gathered", "valid", "owned", "offsets")
"""Which rows of a matrix may be quantised."""


def every_quantizer() -> Iterator[Quantizer]:
    """All that calls may ask for."""
    both = (False, True)
    for dtype, has_matrices, is_power_of_two in product(SOURCE_BYTES, both, both):
        for is_transposed in both:
            yield BlockQuantizer(dtype, has_matrices, is_power_of_two, is_transposed)
        yield BothWaysQuantizer(dtype, has_matrices, is_power_of_two)
        if not has_matrices:
            for rows in ("offsets", "ends"):
                yield BothWaysQuantizer(dtype, has_matrices, is_power_of_two, rows)
        for rows, index_dtype in (*((each, "int32") for each in ROWS), ("gathered", "int64")):
            for source, passes in product(SOURCES, (1, _PASSES)):
                yield RowQuantizer(dtype, has_matrices, source, rows, index_dtype, is_power_of_two, passes)
            for has_residual, (most, steps) in product(both, _NORM_STEPS):
                of_rows = has_residual, rows, index_dtype, is_power_of_two
                for threads in range(_WARP, most // steps + 1, _WARP):
                    yield NormQuantizer(dtype, has_matrices, *of_rows, threads, steps)
