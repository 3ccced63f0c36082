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
    import cutlass
    from cutlass import cute

    from ..kernels.quantize.by_rows import QuantizeByRows

    m, k, blocks, k_of_x, groups = (cute.sym_int32() for _ in range(5))
    matrices = (groups,) if config.has_matrices else ()
    m_of_x = cute.sym_int32() if config.rows == "gathered" else m
    tensors = (
        _source(config.dtype, *matrices, m_of_x, k if config.source == "plain" else k_of_x),
        _e4m3(*matrices, m, k),
        _scales(*matrices, m, blocks),
    )
    index: dict[str, Callable[[], tuple[Any, ...]]] = {
        "all": lambda: (),
        "gathered": lambda: (_index(config.index_dtype, m),),
        "valid": lambda: (_index(config.index_dtype, groups),),
        "owned": lambda: (_index(config.index_dtype, m),),
        "offsets": lambda: (_index(config.index_dtype, cute.sym_int32()), cutlass.Int32(1)),
    }
    return QuantizeByRows(config), (*tensors, *_launch(), *index[config.rows]())


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

    m, k, m_blocks, k_blocks = (cute.sym_int32() for _ in range(4))
    along_k = _e4m3(m, k), _scales(m, k_blocks)
    along_m = _e4m3(k, m), _scales(k, m_blocks)
    return QuantizeBothWays(config), (_source(config.dtype, m, k), *along_k, *along_m, *_launch())


@build.register
def _(config: NormQuantizer) -> Built:
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    from ..kernels.quantize.by_rows import DTYPES
    from ..kernels.quantize.normed import QuantizeNormed

    m, k, blocks = (cute.sym_int32() for _ in range(3))
    source = _source(config.dtype, m, k)
    size = SOURCE_BYTES[config.dtype]
    weight = make_fake_tensor(DTYPES[config.dtype], (k,), (1,), assumed_align=size)
    residual = (_source(config.dtype, m, k),) if config.has_residual else ()
    results = _e4m3(m, k), _scales(m, blocks)
    return QuantizeNormed(config), (source, weight, *results, cutlass.Float32(0), *_launch(), *residual)


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
