"""Launches products with an epilogue, by kernels that apply it.

    fast path   :func:`launch_again`   a call like one that was launched -> its kernel checks the operands
    slow path   :func:`launch`, behind the contract -> choice -> compiled now, or found

What an epilogue brings is checked by the contract alone. So a call is like another only if all of that has
the same types, extents, strides and alignment, and nothing of it may meet what is written.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..contract import OWNING_TYPES, Call, ResultForm
from ..contract.quantizing import E4M3, SCALE_DTYPE, scale_blocks
from ..plan.config import KernelConfig
from ..plan.layouts import Layout
from ..plan.limits import TMA_ALIGNMENT
from ..plan.problem import GemmProblem
from . import applied, builder, launcher, selection
from .applied import Applied
from .builder import Program
from .caller import several_devices
from .quantizers import strides_of_scales
from .torch_internals import empty_strided_cuda

_MOST = 1024

_programs: dict[Hashable, Program] = {}

_devices: set[int] = set()
"""Where something was launched: elsewhere no call is like another."""

# A forked child cannot use the CUDA of its parent.
os.register_at_fork(after_in_child=_devices.clear)


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
    kind = _alike(of.key, result, more)
    with torch.cuda.device(device):
        launcher.launch_into(call, result, device, *more, of=kind, choose=choose)
    _devices.add(device)
    if call.scales_out is not None:
        launcher.written(call.scales_out, call.scales_out)
    return launcher.written(result, call.out)


class DescribedOperand(Protocol):
    """One of its operands."""

    @property
    def value(self) -> Any:
        """As an item of :attr:`Applied.operands`."""

    @property
    def is_like_out(self) -> bool:
        """Whether it has D's shape, so that it may be the result."""


class Described(Protocol):
    """An epilogue, as far as a launch asks."""

    @property
    def form(self) -> ResultForm: ...

    @property
    def m_major_scales(self) -> bool: ...

    @property
    def key(self) -> Hashable:
        """As of :class:`Applied`."""

    @property
    def operands(self) -> Sequence[DescribedOperand]:
        """In the order of the stages."""


def launch_again(
    layout: Layout,
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    out: Any,
    out_dtype: torch.dtype,
    index: Tensor | None,
    count: int,
    fill: int | None,
    epilogue: Described,
) -> Any:
    """Launches a call with these arguments, whatever they are, if one like it was launched before.

    Args:
        layout, lhs, rhs, out, out_dtype, index, count, fill: as of :func:`.launcher.launch`; of what is
            quantised ``out`` is a pair.
        epilogue: as said.

    Returns:
        The result, or both, or None where nothing was done.
    """
    try:
        a, b = lhs[0], rhs[0]
        device = a.get_device()
        if device not in _devices or (several_devices() and device != torch.cuda.current_device()):
            return None
        form, operands = epilogue.form, epilogue.operands
        given, given_scales = (out, None) if not form.is_quantized or out is None else out
        if form.is_quantized and (out_dtype not in (torch.bfloat16, E4M3) or fill is not None):
            return None
        values = [each.value for each in operands]
        if given is None and any(each is None for each in values):
            return None
        beside = [each for each in values if isinstance(each, Tensor)]
        read = [*lhs, *rhs, *([] if index is None else [index])]
        written = [each for each in (given, given_scales) if each is not None]
        if not _are_plain([*beside, *read, *written], device):
            return None
        shape = (*a.shape[:-1], b.shape[-2] // form.narrowing)
        result = given
        if given is None:
            result = _new(shape, E4M3 if form.is_quantized else out_dtype)
            out_dtype = result.dtype
        elif form.is_quantized:
            out_dtype = given.dtype
        # The kernel's host code looks whether the first result meets what is multiplied.
        if given is not None:
            for each in operands:
                is_other = isinstance(each.value, Tensor) and not (
                    each.is_like_out and _is(each.value, given)
                )
                if is_other and _meets(given, [each.value]):
                    return None
        more = [result if each is None else each for each in values]
        scales = given_scales
        if form.is_quantized:
            if scales is None:
                scales = _new((*shape[:-1], scale_blocks(shape[-1])), SCALE_DTYPE, epilogue.m_major_scales)
            elif _meets(scales, [*beside, *read, result]):
                return None
            more += [scales, shape[-1]]
        of = _alike(epilogue.key, result, more)
    # Of what is no tensor, or no pair of them; or an epilogue's function refers to what it may not.
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError):
        return None
    made = launcher.launch(layout, lhs, rhs, result, out_dtype, index, count, fill, of, tuple(more))
    if made is None:
        return None
    return made if scales is None else (made, launcher.written(scales, given_scales))


def program(config: KernelConfig, of: Applied, operands: list[Tensor | float]) -> Program:
    """The kernel of a configuration that applies an epilogue to such operands."""
    ranks = _ranks(operands)
    found = _programs.get((config, of.key, ranks))
    if found is None:
        if len(_programs) >= _MOST:
            _programs.clear()
        found = _programs[config, of.key, ranks] = builder.build(
            config, value=applied.value(config, of), tensors=applied.symbols(config, operands)
        )
    return found


def _new(shape: tuple[int, ...], dtype: torch.dtype, is_m_major: bool = False) -> Tensor:
    """On the current device."""
    return empty_strided_cuda(tuple(shape), strides_of_scales(tuple(shape), is_m_major), dtype)


def _alike(key: Hashable, result: Tensor, more: list[Any]) -> Hashable:
    """What two calls have in common where the contract finds either in order, or neither."""
    return key, tuple(_geometry(each) if isinstance(each, Tensor) else None for each in (result, *more))


def _geometry(x: Tensor) -> Hashable:
    return x.dtype, x.shape, x.stride(), x.data_ptr() % TMA_ALIGNMENT


def _are_plain(tensors: list[Tensor], device: int) -> bool:
    """Whether all own memory of a device that is as it says, and no derivative is asked of them."""
    is_recorded = torch.is_grad_enabled()
    for each in tensors:
        # What was freed, as by FSDP, begins nowhere.
        if type(each) not in OWNING_TYPES or each.get_device() != device or not each.data_ptr():
            return False
        if each.is_neg() or (is_recorded and each.requires_grad):
            return False
    return True


def _meets(written: Tensor, others: list[Tensor]) -> bool:
    """Whether a byte of others may be written."""
    begin, end = _place(written)
    for other in others:
        first, behind = _place(other)
        if first < end and begin < behind:
            return True
    return False


def _is(x: Tensor, result: Tensor) -> bool:
    """Whether what is read is what is written, element by element."""
    if x.data_ptr() != result.data_ptr() or x.dtype is not result.dtype:
        return False
    return x.shape == result.shape and x.stride() == result.stride()


def _place(x: Tensor) -> tuple[int, int]:
    """The address of the first byte, and that behind the last."""
    begin = x.data_ptr()
    return begin, begin + _span(x.shape, x.stride()) * x.element_size()


@functools.lru_cache(4096)
def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the first to the last."""
    return sum((count - 1) * step for count, step in zip(shape, strides, strict=True)) + 1


def _ranks(operands: list[Tensor | float]) -> tuple[int, ...]:
    return tuple(each.dim() if isinstance(each, Tensor) else 0 for each in operands)
