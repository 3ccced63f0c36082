"""What a kernel needs to know of an epilogue: the value that applies it, and its operands' types."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..contract import Call, ResultForm
from ..plan.config import KernelConfig
from ..plan.limits import SCALE_BYTES
from ..plan.quantizer import INTERLEAVE


@dataclass(frozen=True)
class Applied:
    """What a kernel needs to know of an epilogue.

    Args:
        key: of all that shapes its code.
        stages: as of :class:`cute_gemm.kernels.epilogue.function_value.FunctionValue`.
        operands: tensors and numbers, in the order of the stages' kinds; None for the result itself.
        gate: the number of the stage that makes a column of two, if one does.
        turn: columns of either at a turn there.
        power_of_two_scales: whether scales are powers of two, where what the stages make is quantised.
    """

    key: Hashable
    stages: tuple[tuple[Callable[..., Any], tuple[str, ...]], ...]
    operands: tuple[Tensor | float | None, ...]
    gate: int | None = None
    turn: int = INTERLEAVE
    power_of_two_scales: bool = False


class Applicable(Protocol):
    """An epilogue, as far as a kernel's author gives it: :class:`cute_gemm.epilogue.Epilogue`."""

    @property
    def applied(self) -> Applied: ...

    @property
    def form(self) -> ResultForm: ...

    def check(self, call: Call) -> None:
        """Raises a TypeError or a ValueError where an operand does not fit a call."""


def require_form(config: KernelConfig, epilogue: Applicable) -> None:
    """The results of a configuration have the form that an epilogue makes.

    Raises:
        ValueError: they have not; the message says which fields of the configuration would do.
    """
    form = epilogue.form
    if config.narrowing != form.narrowing:
        raise ValueError(
            f"{config.name} makes a column of D of {config.narrowing} of the sums, but the epilogue makes it "
            f"of {form.narrowing}; wanted narrowing={form.narrowing} in the configuration"
        )
    if config.is_quantized != form.is_quantized:
        wanted = "'float8_e4m3fn'" if form.is_quantized else "'bfloat16' or 'float32'"
        raise ValueError(
            f"{config.name} writes {config.out_dtype}, but the epilogue "
            f"{'quantises' if form.is_quantized else 'does not quantise'}; wanted out_dtype={wanted}"
        )


def value(config: KernelConfig, of: Applied) -> Any:
    """What applies the stages, and then quantises what they make, if it is to be."""
    from ..kernels.epilogue import ChainedValue, QuantizedValue
    from ..kernels.epilogue.function_value import FunctionValue, GatedValue

    before, gated = (of.stages, ()) if of.gate is None else (of.stages[: of.gate], of.stages[of.gate :])
    values: list[Any] = [FunctionValue(before)] if before or not (gated or config.is_quantized) else []
    if gated:
        values.append(GatedValue(gated, of.turn))
    if config.is_quantized:
        values.append(QuantizedValue(of.power_of_two_scales))
    return functools.reduce(ChainedValue, values)


def symbols(config: KernelConfig, operands: Sequence[Tensor | float | None]) -> tuple[Any, ...]:
    """What is known of operands when a kernel is compiled, and of scales, if it writes such.

    Args:
        config: of the kernel.
        operands: as of :attr:`Applied.operands`.
    """
    import cutlass

    rank = 3 if config.layout.has_matrix_per_group else 2
    known = []
    for each in operands:
        if each is None:
            known.append(_tensor(getattr(torch, config.out_dtype), rank))
        elif isinstance(each, Tensor):
            known.append(_tensor(each.dtype, each.dim()))
        else:
            known.append(cutlass.Float32(0))
    return (*known, *(_scales(rank) if config.is_quantized else ()))


def _scales(rank: int) -> list[Any]:
    """Scales of any strides, and how many columns there are."""
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    shape, strides = ([each() for _ in range(rank)] for each in (cute.sym_int32, cute.sym_int64))
    scales = make_fake_tensor(cutlass.Float32, tuple(shape), tuple(strides), assumed_align=SCALE_BYTES)
    return [scales, cutlass.Int32(0)]


def _tensor(dtype: torch.dtype, rank: int) -> Any:
    """A tensor that is contiguous in its last dimension."""
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    of_dsl = {
        torch.float32: cutlass.Float32,
        torch.bfloat16: cutlass.BFloat16,
        torch.float16: cutlass.Float16,
    }[dtype]
    shape = tuple(cute.sym_int32() for _ in range(rank))
    strides = (*(cute.sym_int64() for _ in shape[1:]), 1)
    return make_fake_tensor(of_dsl, shape, strides, assumed_align=dtype.itemsize)
