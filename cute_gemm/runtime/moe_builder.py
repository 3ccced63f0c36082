"""What :mod:`.quantizer_builder` does, for kernels around the products of an expert layer."""

from __future__ import annotations

from typing import Any

from ..plan.moe import CombineConfig, RouteConfig
from . import symbols
from .quantizer_builder import Built, build


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

    tensors = (
        symbols.vector(config.index_dtype, choices),
        *(symbols.vector("int32", choices) for _ in range(2)),
    )
    numbers = cutlass.Int32(0), cutlass.Int32(1)
    arguments = (
        *tensors,
        symbols.vector("int32", experts),
        *weights(),
        *symbols.launch(),
        *weights(),
        *numbers,
    )
    return RouteTokens(config), arguments


@build.register
def _(config: CombineConfig) -> Built:
    from cutlass import cute

    from ..kernels.moe.combine import CombineRows

    tokens, n, rows, choices = (cute.sym_int32() for _ in range(4))
    base = (symbols.rows(config.dtype, tokens, n),) if config.has_base else ()
    arguments = (
        symbols.rows(config.dtype, rows, n),
        symbols.vector("int32", choices),
        symbols.rows(config.dtype, tokens, n),
    )
    return CombineRows(config), (*arguments, *symbols.launch(), *base)
