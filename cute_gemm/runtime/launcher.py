"""The one road of every operation: a call builds a key, finds a kernel, and that kernel's host code launches.

    fast path   :func:`launch`   key -> kernel that ran before -> its host code checks its operands, launches
    slow path   :func:`launch_checked`, behind the contract: key -> choice -> compiled now, or found -> launch

The rules of :mod:`cute_gemm.contract` ask tensors for attributes in Python, which takes longer than a launch
(docs/performance.md, 68). A kernel's host code has those attributes anyway, and launches at once where
:mod:`cute_gemm.kernels.preconditions` hold. Where it declines, as for every error, and wherever something is
unusual, the fast path has done nothing and returns None: messages are the contract's.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Hashable
from dataclasses import replace

import torch
from torch import Tensor

from .. import settings
from ..contract import OWNING_TYPES, Call
from ..plan.config import KernelConfig
from ..plan.launch_policy import LaunchFlags
from ..plan.layouts import Layout
from ..plan.limits import (
    K_MULTIPLE,
    N_MULTIPLE,
    SCALE_BYTES,
    SCALE_STRIDE_MULTIPLE,
    STRIDE_END,
    TMA_ALIGNMENT,
    ceil_div,
)
from ..plan.problem import GemmProblem
from . import hardware, selection, semaphores
from .builder import Program
from .caller import caller, several_devices
from .selection import Launch
from .torch_internals import derivatives_may_be_tracked, empty_strided_cuda

_MOST = 65536
_FILL = int(LaunchFlags.FILL)

_launches: dict[Hashable, Launch] = {}
"""What to launch for a key, after the slow path has launched it."""

_SCALE_STEP_END = STRIDE_END // SCALE_BYTES


def launch(
    layout: Layout,
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    out: Tensor | None,
    out_dtype: torch.dtype,
    index: Tensor | None = None,
    count: int = 0,
    fill: int | None = None,
    of: Hashable = None,
    more: tuple[Tensor | float, ...] = (),
    accumulate: bool = False,
) -> Tensor | None:
    """Launches an operation with these arguments, whatever they are, if a kernel finds them in order.

    Args:
        layout: of the operation.
        lhs, rhs, out, out_dtype: as of :func:`cute_gemm.fp8_gemm_nt`.
        index, count: what the layout's :attr:`Layout.index` and :attr:`Layout.count` say.
        fill: 0 to write zeros to rows of no group, None to leave them alone.
        of: what the kernel depends on beside that; all of it that it takes behind is in order.
        more: what a kernel takes behind all else.
        accumulate: whether the product is to be added to ``out``.

    Returns:
        The result, or None where nothing was done.
    """
    if type(lhs) is not tuple or type(rhs) is not tuple:
        return None
    if accumulate is not False and (accumulate is not True or out is None):
        return None
    try:
        (a, sa), (b, sb) = lhs, rhs
        if not (type(a) in OWNING_TYPES and type(sa) in OWNING_TYPES):
            return None
        if not (type(b) in OWNING_TYPES and type(sb) in OWNING_TYPES):
            return None
        if out is None:
            dtype = out_dtype
        elif type(out) not in OWNING_TYPES or (
            out_dtype is not out.dtype
            and out_dtype is not (torch.float32 if layout.has_result_per_group else torch.bfloat16)
        ):
            return None
        else:
            dtype = out.dtype
        if (index is not None and type(index) not in OWNING_TYPES) or type(count) is not int:
            return None
        device, a_shape, b_shape = a.get_device(), a.shape, b.shape
        n = b_shape[-2]
        scales_rows = sb.shape[-2] == n
        if scales_rows and not tma_can_load(sb):
            return None
        of_rows = scales_rows, accumulate
        groups = count
        if layout.has_result_per_group and index is not None:
            groups = index.shape[0] - 1
        key = _key(layout, a_shape, b_shape, tma_can_load(sa), dtype, device, groups, of_rows)
        found = _launches.get(key if of is None else (key, of))
    # Such as a dtype that is none, which has no hash, or scales of one dimension.
    except (TypeError, ValueError, LookupError, RuntimeError):
        return None
    if derivatives_may_be_tracked():
        return None
    if found is None or (several_devices() and device != torch.cuda.current_device()):
        return None
    if torch.is_grad_enabled() and (
        a.requires_grad
        or sa.requires_grad
        or b.requires_grad
        or sb.requires_grad
        or (out is not None and out.requires_grad)
    ):
        return None
    # The imaginary part of a conjugate is memory with the wrong sign; only torch's own operators know.
    if sa.is_neg() or sb.is_neg():
        return None
    if out is not None:
        result = out
    elif layout.has_result_per_group:
        result = empty_strided_cuda((groups, a_shape[0], n), (a_shape[0] * n, n, 1), dtype)
    else:
        result = empty_strided_cuda(*_contiguous(a_shape, n), dtype)
    grouping = () if index is None else (index, count) if layout.gives_count_to_kernel else (index,)
    # Strides of extents of 1 may be any, and what a kernel is not compiled for raises: half a second once.
    if a_shape[-2] == 1 and (a.stride(-2) % K_MULTIPLE or result.stride(-2) % N_MULTIPLE):
        return None
    if b_shape[0] == 1 and (
        b.stride(0) % K_MULTIPLE or a.stride(0) % K_MULTIPLE or result.stride(0) % N_MULTIPLE
    ):
        return None
    if layout.has_result_per_group and groups == 1 and result.stride(0) % N_MULTIPLE:
        return None
    kernel, num_sms, flags, is_drawn = found
    if fill is not None:
        if type(fill) is not int or fill != 0:
            return None
        flags |= _FILL
    semaphore = semaphores.address(device) if is_drawn else 0
    if not caller.has_context:
        caller.get_ready()
    caller.launched.value = 0
    try:
        kernel(a, sa, b, sb, result, num_sms, flags, semaphore, caller.address, *grouping, *more)
    except (TypeError, ValueError, RuntimeError):
        return None
    if not caller.launched.value:
        return None
    return written(result, out)


def launch_checked(call: Call) -> Tensor:
    """Launches a call that the contract has found in order, and that has something to compute.

    Raises:
        RuntimeError: its device is no Hopper GPU; or a CUDA graph is being captured, and the kernel was not
            called before on this device.
        ValueError: the device has fewer multiprocessors than the settings ask for.
    """
    device = call.a.get_device()
    require_hopper(device)
    if device == torch.cuda.current_device():
        return _launch_here(call, device)
    with torch.cuda.device(device):
        return _launch_here(call, device)


def launch_with(found: Launch, call: Call, result: Tensor, *more: Tensor | float) -> None:
    """Launches ``found`` for a call, on the current stream of its device, which is the current one.

    Args:
        found: the kernel, and how to launch it.
        call: one that the contract has found in order.
        result: where to write.
        more: further tensors and numbers, of a kernel that takes such.
    """
    device = call.a.get_device()
    if not caller.has_context:
        caller.get_ready()
    a, b, of_tma = _for_tma(call.a), _for_tma(call.b), _for_tma(result)
    index = () if call.index is None else (_for_tma(call.index),)
    grouping = (*index, call.count) if call.layout.gives_count_to_kernel else index
    options = found.options(device, more_flags=0 if call.fill is None else _FILL)
    found.kernel(a, call.sa, b, call.sb, of_tma, *options, *grouping, *more)


def forget() -> None:
    """Has the next call of each shape choose its kernel anew, as in a new process."""
    _launches.clear()


# A forked child cannot use the CUDA of its parent: nothing is launched there, and torch says so.
os.register_at_fork(after_in_child=forget)


def _staged(s: Tensor) -> Tensor:
    """Scales ``[rows, k-blocks]`` that TMA can load: those given, or a copy."""
    if tma_can_load(s):
        return s
    rows, k_blocks = s.shape
    step = ceil_div(rows, SCALE_STRIDE_MULTIPLE) * SCALE_STRIDE_MULTIPLE
    return s.new_empty(k_blocks, step)[:, :rows].t().copy_(s)


def tma_can_load(sa: Tensor) -> bool:
    """Whether scales are M-major, do not overlap, and begin and step by multiples of 16 bytes.

    Each call asks, so what most often says no comes first.
    """
    strides = sa.stride()
    if strides[-2] != 1:
        return False
    rows, k_block = sa.shape[-2], strides[-1]
    if k_block % SCALE_STRIDE_MULTIPLE or sa.data_ptr() % TMA_ALIGNMENT:
        return False
    for step in strides[:-2]:
        if step % SCALE_STRIDE_MULTIPLE or not rows <= step < _SCALE_STEP_END:
            return False
    return rows <= k_block < _SCALE_STEP_END


def _key(
    layout: Layout,
    a_shape: tuple[int, ...],
    b_shape: tuple[int, ...],
    tma_scales: bool,
    dtype: torch.dtype,
    device: int,
    count: int,
    of_rows: tuple[bool, bool] = (False, False),
) -> Hashable:
    """What a choice depends on."""
    now = settings.current()
    rows = 0 if layout.gives_count_to_kernel else count
    # By fields: a hash of the settings as a whole takes longer.
    return (
        layout.name,
        a_shape,
        b_shape,
        tma_scales,
        of_rows,
        dtype,
        device,
        rows,
        now.num_sms,
        now.batch_invariant,
        now.pdl,
    )


def _launch_here(call: Call, device: int) -> Tensor:
    if call.recipe.scales_columns:
        # Kernels take them with the stages alone.
        call = replace(call, sa=_staged(call.sa), sb=_staged(call.sb))
    result = call.out if call.out is not None else call.a.new_empty(call.shape, dtype=call.out_dtype)
    launch_into(call, result, device)
    return written(result, call.out)


def launch_into(
    call: Call,
    result: Tensor,
    device: int,
    *more: Tensor | float,
    of: Hashable = None,
    choose: Callable[[GemmProblem, bool, int], Program | KernelConfig] | None = None,
) -> None:
    """Launches a call that the contract has found in order; what for, is thought about once.

    Args:
        call, result, more: as of :func:`launch_with`.
        device: the index of the current CUDA device, the call's.
        of: what the choice depends on beside the call's extents and settings.
        choose: in place of :func:`selection.choose`.

    Raises:
        RuntimeError, ValueError: as :func:`launch_checked`.
    """
    tma_scales = tma_can_load(call.sa)
    of_rows = call.recipe.scales_columns, call.accumulate
    groups = call.shape[0] if call.layout.has_result_per_group else call.count
    key = _key(call.layout, call.a.shape, call.b.shape, tma_scales, result.dtype, device, groups, of_rows)
    if of is not None:
        key = key, of
    found = _launches.get(key)
    if found is not None:
        launch_with(found, call, result, *more)
        return
    problem = selection.problem_of(call, device)
    chosen = (choose or selection.choose)(problem, tma_scales, device)
    dependent = settings.current().dependent_launch
    found = selection.prepare(problem, chosen, dependent, has_epilogue=choose is not None)
    launch_with(found, call, result, *more)
    selection.note_launched(chosen, device)
    if len(_launches) >= _MOST:
        forget()
    _launches[key] = found


def written(result: Tensor, out: Tensor | None) -> Tensor:
    """``result``, after a launch that writes it."""
    if out is not None:
        # Autograd would not notice otherwise that something it saved has changed.
        torch.autograd.graph.increment_version(out)
    return result


def _contiguous(a_shape: tuple[int, ...], n: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Size and strides of a contiguous result for A of that shape."""
    rows = a_shape[-2]
    if len(a_shape) == 2:
        return (rows, n), (n, 1)
    return (a_shape[0], rows, n), (rows * n, n, 1)


def _for_tma(x: Tensor) -> Tensor:
    """The same memory with strides that a tensor map can hold: torch lets those of extents of 1 be any."""
    if 1 not in x.shape:
        return x
    width = x.shape[-1]
    strides = [width if count == 1 else step for count, step in zip(x.shape, x.stride(), strict=True)]
    return x.as_strided(x.shape, strides)


@functools.cache
def require_hopper(index: int) -> None:
    """Remembers success alone.

    Raises:
        RuntimeError: CUDA device ``index`` cannot run the kernels.
    """
    if not hardware.is_hopper(index):
        raise RuntimeError(
            f"the tensors are on cuda:{index}, which is {hardware.describe(index)}; wanted a Hopper GPU, "
            "compute capability 9.0, such as H100, H200 or H20. The same call with CPU tensors (`a.cpu()`, "
            "...) runs in plain torch"
        )
