"""What :mod:`.quantizer_builder` does, for kernels around the products of an expert layer."""

from __future__ import annotations

from typing import Any

from ..plan.moe import CombineConfig, RouteConfig
from .quantizer_builder import Built, _index, _launch, _source, build


@build.register
def _(config: RouteConfig) -> Built:
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    from ..kernels.moe.route import RouteTokens

    choices, experts = cute.sym_int32(), cute.sym_int32()

    def weights() -> tuple[Any, ...]:
        each = make_fake_tensor(cutlass.Float32, (choices,), (1,), assumed_align=4)
        return (each,) if config.has_weights else ()

    tensors = _index(config.index_dtype, choices), *(_index("int32", choices) for _ in range(2))
    numbers = cutlass.Int32(0), cutlass.Int32(1)
    arguments = *tensors, _index("int32", experts), *weights(), *_launch(), *weights(), *numbers
    return RouteTokens(config), arguments


@build.register
def _(config: CombineConfig) -> Built:
    from cutlass import cute

    from ..kernels.moe.combine import CombineRows

    tokens, n, rows, choices = (cute.sym_int32() for _ in range(4))
    base = (_source(config.dtype, tokens, n),) if config.has_base else ()
    arguments = _source(config.dtype, rows, n), _index("int32", choices), _source(config.dtype, tokens, n)
    return CombineRows(config), (*arguments, *_launch(), *base)
