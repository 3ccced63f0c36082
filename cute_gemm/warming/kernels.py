"""Kernels to be made, by what a process that makes one has to be told."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from ..plan.config import KernelConfig
from ..plan.moe import MoeConfig
from ..plan.quantizer import Quantizer


@dataclass(frozen=True)
class Fused:
    """A product's kernel with an epilogue.

    Args:
        config: the product's.
        epilogue: an :class:`cute_gemm.epilogue.Epilogue`; or where one is, ``module:name`` or
            ``file.py:name``, or a function that returns one.
    """

    config: KernelConfig
    epilogue: Any

    @property
    def name(self) -> str:
        where = self.epilogue.rpartition(":")[2] if isinstance(self.epilogue, str) else "an epilogue"
        return f"{self.config.name} with {where}"


@dataclass(frozen=True)
class Written:
    """A user's own program, by where it is: ``module:name`` or ``file.py:name``."""

    where: str

    @property
    def name(self) -> str:
        return self.where


Kernel = KernelConfig | Quantizer | MoeConfig | Fused | Written


def is_movable(kernel: Kernel) -> bool:
    """Whether another process can be told of it."""
    return not isinstance(kernel, Fused) or isinstance(kernel.epilogue, str)


def is_kept(kernel: Kernel) -> bool:
    """Whether it is in a pack or on disk, as :func:`cute_gemm.runtime.compiler.is_kept`.

    Raises:
        ImportError, RuntimeError, ValueError: as :func:`cute_gemm.runtime.compiler.instance`.
    """
    builder, of = _resolved(kernel)
    return bool(builder.is_kept(of))


def load(kernel: Kernel) -> None:
    """Has it be in this process, found or compiled now, whatever calls are not to do.

    Raises:
        ImportError, RuntimeError, ValueError: as :func:`cute_gemm.runtime.compiler.instance`.
    """
    from .. import settings

    builder, of = _resolved(kernel)
    with settings.config(jit=True):
        builder.instance(of)


def made_elsewhere(kernel: Kernel) -> Kernel:
    """The same in a process of which nothing but warnings is to be seen; then it is on disk.

    Also where a pack has it: what was asked for is to be there when packs are not.
    """
    from ..runtime import compiler

    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    logging.getLogger("cute_gemm").handlers = [handler]
    with compiler.noting():
        load(kernel)
    return kernel


def epilogue_at(where: str) -> Any:
    """The epilogue that is there.

    Raises:
        InspectionError: there is none.
    """
    from ..epilogue import Epilogue
    from ..runtime import lookup

    return lookup.find(where, Epilogue, "an Epilogue of cute_gemm.epilogue")


def swiglu_and_quantize() -> Any:
    """The epilogue of gate and up in :mod:`cute_gemm.moe`."""
    from ..epilogue import quantize_1x128, swiglu

    return swiglu() | quantize_1x128()


def row_weights() -> Any:
    """The epilogue of an expert layer's last product: weights of routing are FP32."""
    import torch

    from .. import epilogue

    return epilogue.row_weights(torch.empty(0, dtype=torch.float32))


def _resolved(kernel: Kernel) -> tuple[Any, Any]:
    """The module that makes it, and what that is asked for."""
    from ..runtime import builder, lookup, moe_builder, quantizer_builder

    _ = moe_builder
    if isinstance(kernel, Written):
        return builder, lookup.find_program(kernel.where)
    if isinstance(kernel, Fused):
        return builder, _program(kernel)
    return (builder if isinstance(kernel, KernelConfig) else quantizer_builder), kernel


def _program(kernel: Fused) -> Any:
    import torch

    from ..runtime import epilogued

    config, epilogue = kernel.config, kernel.epilogue
    applied = (epilogue_at(epilogue) if isinstance(epilogue, str) else epilogue).applied
    # Of the result kernels know the type and how many dimensions there are.
    dtype = torch.float8_e4m3fn if config.is_quantized else getattr(torch, config.out_dtype)
    result = torch.empty([0] * config.layout.a_rank, dtype=dtype, device="meta")
    operands = [result if each is None else each for each in applied.operands]
    return epilogued.program(config, applied, operands)
