"""What kernels beside products are compiled for: symbolic tensors, and what a launch takes.

Alignment is for their host code to judge: what TVM FFI raises takes long.
"""

from __future__ import annotations

from typing import Any

from ..plan.limits import SCALE_BYTES
from ..plan.quantizer import SOURCE_BYTES


def launch() -> tuple[Any, ...]:
    """Flags, status and stream."""
    import cutlass
    from cutlass.cute.runtime import make_fake_stream

    return cutlass.Int32(0), cutlass.Int64(0), make_fake_stream(use_tvm_ffi_env_stream=True)


def rows(dtype: str, *shape: Any) -> Any:
    """A matrix, or one of several, columns contiguous."""
    from ..kernels.quantize.by_rows import DTYPES

    return _matrix(DTYPES[dtype], SOURCE_BYTES[dtype], shape)


def e4m3(*shape: Any) -> Any:
    """The same of e4m3."""
    import cutlass

    return _matrix(cutlass.Float8E4M3FN, 1, shape)


def _matrix(dtype: Any, size: int, shape: tuple[Any, ...]) -> Any:
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    strides = (*(cute.sym_int64() for _ in shape[1:]), 1)
    return make_fake_tensor(dtype, shape, strides, assumed_align=size)


def scales(*shape: Any) -> Any:
    """FP32 of any strides."""
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    strides = tuple(cute.sym_int64() for _ in shape)
    return make_fake_tensor(cutlass.Float32, shape, strides, assumed_align=SCALE_BYTES)


def vector(dtype: str, length: Any) -> Any:
    """A contiguous vector."""
    import cutlass
    from cutlass.cute.runtime import make_fake_tensor

    of = {"int32": cutlass.Int32, "int64": cutlass.Int64, "float32": cutlass.Float32}[dtype]
    return make_fake_tensor(of, (length,), (1,), assumed_align=of.width // 8)
