"""Launches products with an epilogue: the slow path, with a kernel that applies it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import settings
from ..contract import Call
from ..plan.config import KernelConfig
from . import builder, launcher, selection
from .builder import Program


@dataclass(frozen=True)
class Applied:
    """What a kernel needs to know of an epilogue.

    Args:
        key: of all that shapes its code.
        stages: as of :class:`cute_gemm.kernels.epilogue.function_value.FunctionValue`.
        operands: tensors and numbers, in the order of the stages' kinds; None for the result itself.
    """

    key: Hashable
    stages: tuple[tuple[Callable[..., Any], tuple[str, ...]], ...]
    operands: tuple[Tensor | float | None, ...]


_MOST = 1024

_programs: dict[Hashable, Program] = {}


def launch(call: Call, of: Applied) -> Tensor:
    """Launches a call that the contract has found in order, and that has something to compute.

    Raises:
        RuntimeError, ValueError: as :func:`.launcher.launch_checked`.
    """
    device = call.a.get_device()
    launcher.require_hopper(device)
    with torch.cuda.device(device):
        problem = selection.problem_of(call, device)
        config = selection.select(problem, launcher.tma_can_load(call.sa))
        result = call.a.new_empty(call.shape, dtype=call.out_dtype) if call.out is None else call.out
        operands = [result if each is None else each for each in of.operands]
        made = program(config, of.key, of.stages, operands)
        selection.require_capturable(made, problem, device)
        found = selection.prepare(problem, made, settings.current().dependent_launch)
        launcher.launch_with(found, call, result, *operands)
        selection.note_launched(made, device)
    return launcher.written(result, call.out)


def program(
    config: KernelConfig,
    key: Hashable,
    stages: tuple[tuple[Callable[..., Any], tuple[str, ...]], ...],
    operands: list[Tensor | float],
) -> Program:
    """The kernel of a configuration that applies an epilogue to such operands."""
    ranks = tuple(each.dim() if isinstance(each, Tensor) else 0 for each in operands)
    found = _programs.get((config, key, ranks))
    if found is None:
        from ..kernels.epilogue.function_value import FunctionValue

        if len(_programs) >= _MOST:
            _programs.clear()
        kinds = [kind for _, of_stage in stages for kind in of_stage]
        symbols = tuple(_symbolic(kind, each) for kind, each in zip(kinds, operands, strict=True))
        found = _programs[config, key, ranks] = builder.build(
            config, value=FunctionValue(stages), tensors=symbols
        )
    return found


def _symbolic(kind: str, operand: Tensor | float) -> Any:
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
