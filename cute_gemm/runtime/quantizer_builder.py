"""From a quantiser's configuration to what the DSL compiles: a kernel object, and symbolic arguments."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any

from ..plan.limits import SCALE_BYTES
from ..plan.quantizer import (
    SOURCE_BYTES,
    BlockQuantizer,
    BothWaysQuantizer,
    NormQuantizer,
    Quantizer,
    RowQuantizer,
)
from . import compiler

Built = tuple[Callable[..., Any], tuple[Any, ...]]


def instance(config: Quantizer) -> Callable[..., None]:
    """The kernel of ``config``: from this process, from disk, or compiled now, as `compiler.instance`."""
    return compiler.instance((type(config).__name__, config), lambda: build(config), config.name)


@singledispatch
def build(config: Quantizer) -> Built:
    """The kernel of ``config``, and the arguments it takes."""
    raise TypeError(f"no kernel quantises as {config}")


@build.register
def _(config: RowQuantizer) -> Built:
    from cutlass import cute

    from ..kernels.quantize.by_rows import QuantizeByRows

    m, k, blocks, k_of_x, groups = (cute.sym_int32() for _ in range(5))
    matrices = (groups,) if config.has_matrices else ()
    m_of_x = _rows_of_source(config, m)
    tensors = (
        _source(config.dtype, *matrices, m_of_x, k if config.source == "plain" else k_of_x),
        _e4m3(*matrices, m, k),
        _scales(*matrices, m, blocks),
    )
    vectors, numbers = _selection(config, m, groups)
    return QuantizeByRows(config), (*tensors, *_launch(), *vectors, *numbers)


@build.register
def _(config: BlockQuantizer) -> Built:
    from cutlass import cute

    from ..kernels.quantize.by_blocks import QuantizeByBlocks

    n, k, n_blocks, k_blocks, groups = (cute.sym_int32() for _ in range(5))
    matrices = (groups,) if config.has_matrices else ()
    source, quantized = _source(config.dtype, *matrices, n, k), _e4m3(*matrices, n, k)
    return QuantizeByBlocks(config), (source, quantized, _scales(*matrices, n_blocks, k_blocks), *_launch())


@build.register
def _(config: BothWaysQuantizer) -> Built:
    from cutlass import cute

    from ..kernels.quantize.both_ways import QuantizeBothWays

    m, k, m_blocks, k_blocks, groups = (cute.sym_int32() for _ in range(5))
    matrices = (groups,) if config.has_matrices else ()
    along_k = _e4m3(*matrices, m, k), _scales(*matrices, m, k_blocks)
    along_m = _e4m3(*matrices, k, m), _scales(*matrices, k, m_blocks)
    source = _source(config.dtype, *matrices, m, k)
    return QuantizeBothWays(config), (source, *along_k, *along_m, *_launch())


@build.register
def _(config: NormQuantizer) -> Built:
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    from ..kernels.quantize.by_rows import DTYPES
    from ..kernels.quantize.normed import QuantizeNormed

    m, k, blocks, groups = (cute.sym_int32() for _ in range(4))
    matrices = (groups,) if config.has_matrices else ()
    source = _source(config.dtype, *matrices, _rows_of_source(config, m), k)
    size = SOURCE_BYTES[config.dtype]
    weight = make_fake_tensor(DTYPES[config.dtype], (k,), (1,), assumed_align=size)
    residual = (_source(config.dtype, *matrices, m, k),) if config.has_residual else ()
    results = _e4m3(*matrices, m, k), _scales(*matrices, m, blocks)
    vectors, numbers = _selection(config, m, groups)
    behind = *residual, *vectors, cutlass.Float32(0), *numbers
    return QuantizeNormed(config), (source, weight, *results, *_launch(), *behind)


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
    return (_index(config.index_dtype, lengths[config.rows]()),), numbers


def _launch() -> tuple[Any, ...]:
    """Flags, status and stream."""
    import cutlass
    from cutlass.cute.runtime import make_fake_stream

    return cutlass.Int32(0), cutlass.Int64(0), make_fake_stream(use_tvm_ffi_env_stream=True)


def _source(dtype: str, *shape: Any) -> Any:
    """A matrix, or one of several, columns contiguous."""
    from ..kernels.quantize.by_rows import DTYPES

    return _matrix(DTYPES[dtype], SOURCE_BYTES[dtype], shape)


def _e4m3(*shape: Any) -> Any:
    import cutlass

    return _matrix(cutlass.Float8E4M3FN, 1, shape)


def _matrix(dtype: Any, size: int, shape: tuple[Any, ...]) -> Any:
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    # Alignment is the host code's to judge: what TVM FFI raises takes long.
    strides = (*(cute.sym_int64() for _ in shape[1:]), 1)
    return make_fake_tensor(dtype, shape, strides, assumed_align=size)


def _scales(*shape: Any) -> Any:
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    strides = tuple(cute.sym_int64() for _ in shape)
    return make_fake_tensor(cutlass.Float32, shape, strides, assumed_align=SCALE_BYTES)


def _index(dtype: str, length: Any) -> Any:
    import cutlass
    from cutlass.cute.runtime import make_fake_tensor

    of, size = {"int32": (cutlass.Int32, 4), "int64": (cutlass.Int64, 8)}[dtype]
    return make_fake_tensor(of, (length,), (1,), assumed_align=size)
