"""Launches a program that its author has chosen: the slow path, without a choice of configurations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import contract, settings
from ..contract import k_grouped
from ..plan import candidates
from ..plan.config import KernelConfig
from ..plan.launch_policy import LaunchFlags
from ..plan.limits import TMA_ALIGNMENT, ceil_div
from . import applied, launcher, selection
from .applied import Applicable
from .builder import Program, label


def launch(
    of: Program | KernelConfig,
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    *grouping: Tensor | int,
    out: Tensor | None = None,
    epilogue: Applicable | None = None,
    tensors: tuple[Tensor, ...] = (),
    num_sms: int | None = None,
    flags: LaunchFlags | None = None,
    validate: bool = False,
) -> Tensor:
    """Runs a kernel on the current stream of the tensors' device, under the rules of its layout's operation.

    Args:
        of: what :func:`cute_gemm.runtime.build` returns, or a configuration.
        lhs, rhs: the pairs ``(a, sa)`` and ``(b, sb)``, as the operation of ``of.config.layout`` takes them:
            :func:`cute_gemm.fp8_gemm_nt` or one of its grouped kind; but scales are of the granularity of
            ``of.config.recipe``. A kernel with ``tma_scales`` wants M-major ``sa``
            (:func:`cute_gemm.quantize.m_major`), and ``sb`` where that has scales of each row.
        grouping: what that operation takes behind them: nothing, ``group_index``, ``offsets`` and, if it is
            not 1, ``alignment``, or ``valid_rows`` and ``expected_rows``.
        out: where to write, or what sums are added to, which must be there then; else None allocates it. Its
            dtype is the configuration's. For a value that makes fewer columns it is contiguous, and the
            caller sees that it overlaps no input.
        epilogue: that for which the program was built, or the same of other operands, which are checked as
            the operation does.
        tensors: further ones, for which the program was built, on the same device; the kernel's host code
            checks what was said of them there, and nobody whether they overlap ``out``.
        num_sms: CTAs that may run at once; None for what :func:`cute_gemm.config` says, or all.
        flags: how to launch; None for what the operation would take
            (:func:`cute_gemm.plan.launch_policy.launch_flags`).
        validate: read the index and raise where it breaks the rules of its layout; waits for the device.

    Returns:
        ``out``, or a new tensor. Where there is nothing to compute, it is as it was.

    Raises:
        TypeError, ValueError: as the operation does; ValueError also where the kernel does not fit the call:
            ``out`` of another dtype, more rows than a tile of 8 has, fewer k-blocks than ``splits``, N
            that is no multiple of the value's ``unit``, scales of A that TMA cannot load, K = 0, tensors on
            the CPU, or an epilogue of other functions or kinds of operands; or where that quantises.
        RuntimeError: the tensors' device is no Hopper GPU; or a CUDA graph is being captured, and the kernel
            was not launched before on this device.

    Warns:
        KernelWarning: the kernel was compiled for this call, and spills.
    """
    config = of if isinstance(of, KernelConfig) else of.config
    layout, out_dtype = config.layout, getattr(torch, config.out_dtype)
    index, count = _split(config, grouping)
    value = getattr(getattr(of, "kernel", None), "value", None)
    out_columns = getattr(value, "out_columns", int)
    form = contract.PLAIN
    if epilogue is not None:
        if tensors:
            raise TypeError(
                "epilogue and tensors are both given; wanted the epilogue, which has its operands"
            )
        _require_epilogue(of, value, epilogue)
        form = epilogue.form
    # The rules are for as many columns of D as B has rows, or an epilogue makes; a value may make fewer.
    is_narrower = epilogue is None and out_columns(128) != 128
    checked_out = None if is_narrower else out
    recipe, accumulate = config.recipe, config.accumulates
    if layout.has_result_per_group:
        of_groups: Any = lhs, rhs, index, out, out_dtype, accumulate
        call = k_grouped.check(*of_groups).launched
    else:
        given = layout, lhs, rhs, checked_out, out_dtype, index, count, validate
        call = contract.check(*given, form=form, recipe=recipe, accumulate=accumulate)
    shape = (*call.shape[:-1], out_columns(call.shape_of_sums[-1]))
    if epilogue is not None:
        epilogue.check(call)
    if is_narrower and out is not None:
        _require_narrower(out, call, shape, out_dtype)
    _require_fit(config, call, getattr(value, "unit", 1))
    result = call.a.new_empty(shape, dtype=out_dtype) if out is None else out
    if 0 in shape:
        return result
    more: tuple[Any, ...] = tensors
    if epilogue is not None:
        more = tuple(result if each is None else each for each in epilogue.applied.operands)
    _require_gpu(call)
    scope = settings.config() if num_sms is None else settings.config(num_sms=num_sms)
    with scope, torch.cuda.device(call.a.device):
        device = call.a.get_device()
        problem = selection.problem_of(call, device)
        selection.require_capturable(of, problem, device)
        found = selection.prepare(problem, of, settings.current().dependent_launch, flags)
        launcher.launch_with(found, call, result, *more)
        selection.note_launched(of, device)
    return launcher.written(result, out)


def _split(config: KernelConfig, grouping: tuple[Tensor | int, ...]) -> tuple[Tensor | None, int]:
    """The index and the count of a layout, of which each may be missing."""
    rule, count = config.layout.index, config.layout.count
    names = [each.name for each in (rule, count) if each is not None]
    # An alignment, which the kernel is given, is 1 unless said otherwise; an expectation has to be said.
    default = [1] if count is not None and config.layout.gives_count_to_kernel else []
    given = [*grouping, *default] if len(grouping) == len(names) - 1 else list(grouping)
    if len(given) != len(names):
        wanted = " and ".join(names) or "nothing"
        raise TypeError(
            f"{config.name} takes {wanted} behind its operands, got {len(grouping)} of them; further "
            "tensors of a program are passed as `tensors=(...)`"
        )
    # The contract says what is wrong where an argument is something else.
    index: Any = given[0] if given else None
    number: Any = given[1] if len(given) > 1 else 0
    return index, number


def _require_epilogue(of: Program | KernelConfig, value: Any, epilogue: Applicable) -> None:
    """Raises where a program was not built for the functions and kinds of operands of an epilogue."""
    config = of if isinstance(of, KernelConfig) else of.config
    applied.require_form(config, epilogue)
    if config.is_quantized:
        raise ValueError(
            f"{config.name} writes scales beside the result; wanted the operation, with its epilogue, or "
            "what the program takes beside the result as `tensors=`"
        )
    if value != applied.value(config, epilogue.applied):
        raise ValueError(
            f"{label(of)} was built for another value; wanted `build(config, epilogue=...)` of an epilogue "
            "of the same functions and kinds of operands"
        )


def _require_gpu(call: contract.Call) -> None:
    if call.a.is_cpu:
        raise ValueError("the tensors are on the CPU; a kernel runs on a Hopper GPU")
    launcher.require_hopper(call.a.get_device())


def _require_narrower(
    out: Tensor, call: contract.Call, shape: tuple[int, ...], out_dtype: torch.dtype
) -> None:
    """Checks a result of other columns than the sums have; the caller sees that it overlaps no input."""
    wanted = out.shape == shape and out.dtype is out_dtype and out.device == call.a.device
    if not wanted or not out.is_contiguous() or out.data_ptr() % TMA_ALIGNMENT:
        raise ValueError(
            f"out must be contiguous {out_dtype} {list(shape)} on {call.a.device}, at a multiple of "
            f"{TMA_ALIGNMENT} bytes, got {out.dtype} {list(out.shape)} on {out.device}"
        )


def _require_fit(config: KernelConfig, call: contract.Call, unit: int) -> None:
    """Raises where a call keeps its operation's rules, but not what this kernel was built for.

    ``unit`` is how many columns the kernel's value takes together.
    """
    if call.out_dtype is not getattr(torch, config.out_dtype):
        raise ValueError(f"{config.name} writes {config.out_dtype}, but out is {call.out_dtype}")
    if call.a.shape[-2] > candidates.most_rows(config):
        raise ValueError(f"{config.name} is for at most {config.block_m} rows, but a has {call.a.shape[-2]}")
    if call.a.shape[-1] == 0:
        raise ValueError("K is 0: there is nothing for a kernel to sum up")
    if config.splits > ceil_div(call.a.shape[-1], config.block_k):
        least = (config.splits - 1) * config.block_k + 1
        raise ValueError(
            f"{config.name} shares out k-blocks of {config.block_k} to {config.splits} CTAs: K must be at "
            f"least {least}, got {call.a.shape[-1]}"
        )
    if call.b.shape[-2] % unit:
        raise ValueError(f"the value takes columns {unit} at a time, but b has {call.b.shape[-2]} rows")
    staged = {"sa": call.sa} if config.tma_scales else {}
    if config.scales_columns:
        staged["sb"] = call.sb
    for name, scales in staged.items():
        if not launcher.tma_can_load(scales):
            raise ValueError(
                f"{config.name} loads {name} by TMA: it must be M-major, its address and strides multiples "
                "of 16 bytes; cute_gemm.quantize.m_major makes it so"
            )
