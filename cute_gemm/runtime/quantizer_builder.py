"""From a quantiser's configuration to what the DSL compiles: a kernel object, and symbolic arguments."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import singledispatch
from typing import Any

from ..plan.moe import MoeConfig
from ..plan.quantizer import (
    SOURCE_BYTES,
    BlockQuantizer,
    BothWaysQuantizer,
    NormQuantizer,
    Quantizer,
    RowQuantizer,
)
from . import compiler, symbols

Built = tuple[Callable[..., Any], tuple[Any, ...]]


def instance(config: Quantizer | MoeConfig) -> Callable[..., None]:
    """The kernel of ``config``: from this process, from disk, or compiled now, as `compiler.instance`."""
    key, make = _request(config)
    return compiler.instance(
        key, make, config.name, remedy=f"`cute-gemm warmup --kernel {config.name}` makes it"
    )


def is_kept(config: Quantizer | MoeConfig) -> bool:
    """Whether it is in a pack or on disk, as `compiler.is_kept`."""
    return compiler.is_kept(*_request(config))


def _request(config: Quantizer | MoeConfig) -> tuple[Hashable, compiler.Build]:
    return (type(config).__name__, config), lambda: build(config)


@singledispatch
def build(config: Quantizer | MoeConfig) -> Built:
    """The kernel of ``config``, and the arguments it takes."""
    raise TypeError(f"no kernel does {config}")


@build.register
def _(config: RowQuantizer) -> Built:
    from cutlass import cute

    from ..kernels.quantize.by_rows import QuantizeByRows

    m, k, blocks, k_of_x, groups = (cute.sym_int32() for _ in range(5))
    matrices = (groups,) if config.has_matrices else ()
    m_of_x = _rows_of_source(config, m)
    tensors = (
        symbols.rows(config.dtype, *matrices, m_of_x, k if config.source == "plain" else k_of_x),
        symbols.e4m3(*matrices, m, k),
        symbols.scales(*matrices, m, blocks),
    )
    vectors, numbers = _selection(config, m, groups)
    return QuantizeByRows(config), (*tensors, *symbols.launch(), *vectors, *numbers)


@build.register
def _(config: BlockQuantizer) -> Built:
    from cutlass import cute

    from ..kernels.quantize.by_blocks import QuantizeByBlocks, QuantizeTransposedByBlocks

    n, k, n_blocks, k_blocks, groups = (cute.sym_int32() for _ in range(5))
    matrices = (groups,) if config.has_matrices else ()
    source, scales = (
        (n, k) if not config.is_transposed else (k, n),
        symbols.scales(*matrices, n_blocks, k_blocks),
    )
    results = symbols.e4m3(*matrices, n, k), scales
    kernel = QuantizeTransposedByBlocks if config.is_transposed else QuantizeByBlocks
    return kernel(config), (symbols.rows(config.dtype, *matrices, *source), *results, *symbols.launch())


@build.register
def _(config: BothWaysQuantizer) -> Built:
    from cutlass import cute

    from ..kernels.quantize.both_ways import QuantizeBothWays

    m, k, m_blocks, k_blocks, groups = (cute.sym_int32() for _ in range(5))
    matrices = (groups,) if config.has_matrices else ()
    along_k = symbols.e4m3(*matrices, m, k), symbols.scales(*matrices, m, k_blocks)
    columns = cute.sym_int32() if config.rows == "ends" else m
    along_m = symbols.e4m3(*matrices, k, columns), symbols.scales(*matrices, k, m_blocks)
    source = symbols.rows(config.dtype, *matrices, m, k)
    vectors = {"all": 0, "offsets": 1, "ends": 2}[config.rows]
    index = (symbols.vector("int32", cute.sym_int32()) for _ in range(vectors))
    return QuantizeBothWays(config), (source, *along_k, *along_m, *symbols.launch(), *index)


@build.register
def _(config: NormQuantizer) -> Built:
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    from ..kernels.quantize.by_rows import DTYPES
    from ..kernels.quantize.normed import QuantizeNormed

    m, k, blocks, groups = (cute.sym_int32() for _ in range(4))
    matrices = (groups,) if config.has_matrices else ()
    source = symbols.rows(config.dtype, *matrices, _rows_of_source(config, m), k)
    size = SOURCE_BYTES[config.dtype]
    weight = make_fake_tensor(DTYPES[config.dtype], (k,), (1,), assumed_align=size)
    residual = (symbols.rows(config.dtype, *matrices, m, k),) if config.has_residual else ()
    results = symbols.e4m3(*matrices, m, k), symbols.scales(*matrices, m, blocks)
    vectors, numbers = _selection(config, m, groups)
    behind = *residual, *vectors, cutlass.Float32(0), *numbers
    return QuantizeNormed(config), (source, weight, *results, *symbols.launch(), *behind)


def _rows_of_source(config: RowQuantizer | NormQuantizer, m: Any) -> Any:
    """Of ``m`` rows of the result."""
    from cutlass import cute

    return cute.sym_int32() if config.rows == "gathered" else m


def _selection(
    config: RowQuantizer | NormQuantizer, m: Any, groups: Any
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What says which of ``m`` rows of so many matrices are quantised: vectors, and numbers."""
    import cutlass
    from cutlass import cute

    if config.rows == "all":
        return (), ()
    lengths: dict[str, Callable[[], Any]] = {
        "gathered": lambda: m,
        "valid": lambda: groups,
        "owned": lambda: m,
        "offsets": cute.sym_int32,
    }
    numbers = (cutlass.Int32(1),) if config.rows == "offsets" else ()
    return (symbols.vector(config.index_dtype, lengths[config.rows]()),), numbers
