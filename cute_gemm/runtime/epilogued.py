"""Launches products with an epilogue: the slow path, with a kernel that applies it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..contract import Call
from ..plan.config import KernelConfig
from ..plan.limits import SCALE_BYTES
from ..plan.problem import GemmProblem
from ..plan.quantizer import INTERLEAVE
from . import builder, launcher, selection
from .builder import Program


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


_MOST = 1024

_programs: dict[Hashable, Program] = {}


def launch(call: Call, of: Applied) -> Tensor:
    """Launches a call that the contract has found in order, and that has something to compute.

    Raises:
        RuntimeError, ValueError: as :func:`.launcher.launch_checked`.
    """
    device = call.a.get_device()
    launcher.require_hopper(device)
    result = call.a.new_empty(call.shape, dtype=call.out_dtype) if call.out is None else call.out
    operands = [result if each is None else each for each in of.operands]

    def choose(problem: GemmProblem, tma_scales: bool, device: int) -> Program:
        made = program(selection.select(problem, tma_scales), of, operands)
        selection.require_capturable(made, problem, device)
        return made

    more = operands if call.scales_out is None else [*operands, call.scales_out, call.shape[-1]]
    kind = call.form, of.key, _ranks(operands)
    with torch.cuda.device(device):
        launcher.launch_into(call, result, device, *more, of=kind, choose=choose)
    if call.scales_out is not None:
        launcher.written(call.scales_out, call.scales_out)
    return launcher.written(result, call.out)


def program(config: KernelConfig, of: Applied, operands: list[Tensor | float]) -> Program:
    """The kernel of a configuration that applies an epilogue to such operands."""
    ranks = _ranks(operands)
    found = _programs.get((config, of.key, ranks))
    if found is None:
        if len(_programs) >= _MOST:
            _programs.clear()
        symbols = [_symbolic(each) for each in operands]
        if config.is_quantized:
            symbols += _symbolic_scales(3 if config.layout.has_matrix_per_group else 2)
        found = _programs[config, of.key, ranks] = builder.build(
            config, value=_value(config, of), tensors=tuple(symbols)
        )
    return found


def _ranks(operands: list[Tensor | float]) -> tuple[int, ...]:
    return tuple(each.dim() if isinstance(each, Tensor) else 0 for each in operands)


def _value(config: KernelConfig, of: Applied) -> Any:
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


def _symbolic_scales(rank: int) -> list[Any]:
    """Scales of any strides, and how many columns there are."""
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    shape, strides = ([each() for _ in range(rank)] for each in (cute.sym_int32, cute.sym_int64))
    scales = make_fake_tensor(cutlass.Float32, tuple(shape), tuple(strides), assumed_align=SCALE_BYTES)
    return [scales, cutlass.Int32(0)]


def _symbolic(operand: Tensor | float) -> Any:
    """What is known of an operand when a kernel is compiled."""
    import cutlass
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    if not isinstance(operand, Tensor):
        return cutlass.Float32(0)
    dtype = {
        torch.float32: cutlass.Float32,
        torch.bfloat16: cutlass.BFloat16,
        torch.float16: cutlass.Float16,
    }[operand.dtype]
    shape = tuple(cute.sym_int32() for _ in range(operand.dim()))
    strides = (*(cute.sym_int64() for _ in shape[1:]), 1)
    return make_fake_tensor(dtype, shape, strides, assumed_align=operand.element_size())
