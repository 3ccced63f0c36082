"""The short way of a dense product on a GPU: a kernel that ran before looks at its operands itself.

The rules of :mod:`cute_gemm.contract.product` take 5 us of the host's time, most of them for attributes of tensors in
Python. A kernel's host code has those attributes anyway, and what is plainly in order by
:mod:`cute_gemm.kernels.plain` it launches at once. Whatever else comes, and every error, goes the long way:
this one says only whether it has launched, and has no words for what is wrong.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from .. import settings
from ..contract.product import PLAIN, tma_can_load
from . import semaphores as counters

_MOST = 65536

_kernels: dict[Hashable, tuple[Callable[..., None], int, int, bool]] = {}
"""What to launch for a shape, and how, after the long way has launched it."""


class _Told(threading.local):
    """Where a kernel's host code says to the calling thread whether it has launched."""

    def __init__(self) -> None:
        self.launched = ctypes.c_int32()
        self.address = ctypes.addressof(self.launched)


_told = _Told()


def _allocate_publicly(size: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="cuda")


# As Inductor's code does, on the current device: 1 us less than by PyTorch's public functions.
_allocate: Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], Tensor] = getattr(
    getattr(getattr(torch._C, "_dynamo", None), "guards", None), "_empty_strided_cuda", _allocate_publicly
)


def fp8_gemm_nt(
    lhs: tuple[Tensor, Tensor],
    rhs: tuple[Tensor, Tensor],
    out: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor | None:
    """Launches :func:`cute_gemm.fp8_gemm_nt` with these arguments, whatever they are, if that is plain to do.

    Returns:
        The result, or None where nothing was done.
    """
    # Dynamo would compile anew for whatever is remembered.
    if torch.compiler.is_compiling() or type(lhs) is not tuple or type(rhs) is not tuple:
        return None
    try:
        (a, sa), (b, sb) = lhs, rhs
        if type(a) not in PLAIN or type(sa) not in PLAIN or type(b) not in PLAIN or type(sb) not in PLAIN:
            return None
        (m, k), (n, _) = a.shape, b.shape
        device, of_tma = a.get_device(), tma_can_load(sa)
    except (ValueError, RuntimeError):
        return None
    if out is None:
        if type(out_dtype) is not torch.dtype:
            return None
        dtype = out_dtype
    elif type(out) not in PLAIN or (out_dtype is not out.dtype and out_dtype is not torch.bfloat16):
        return None
    else:
        dtype = out.dtype
    now = settings.current()
    found = _kernels.get((m, n, k, of_tma, dtype, device, now.num_sms, now.batch_invariant, now.pdl))
    if found is None or (_several_devices() and device != torch.cuda.current_device()):
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
    result = _allocate((m, n), (n, 1), dtype) if out is None else out
    launch, num_sms, hints, draws = found
    counter = counters.address(device) if draws else 0
    _told.launched.value = 0
    try:
        launch(a, sa, b, sb, result, num_sms, hints, counter, _told.address)
    except (TypeError, ValueError, RuntimeError):
        return None
    if not _told.launched.value:
        return None
    if out is not None:
        # Autograd would not notice otherwise that something it saved has changed.
        torch.autograd.graph.increment_version(out)
    return result


def remember(key: Hashable, launch: Callable[..., None], num_sms: int, hints: int, draws: bool) -> None:
    """Has products of a shape go the short way from now on.

    Args:
        key: M, N, K, whether TMA can load the scales of A, the type of the result, the index of the device,
            and the settings: `num_sms`, `batch_invariant` and `pdl`.
        launch: the kernel, which has been launched.
        num_sms, hints: as of `dispatch.launch_options`.
        draws: whether clusters draw their tiles.
    """
    if len(_kernels) >= _MOST:
        forget()
    _kernels[key] = launch, num_sms, hints, draws


def forget() -> None:
    """Has all products go the long way again."""
    _kernels.clear()


@functools.cache
def _several_devices() -> bool:
    return torch.cuda.device_count() > 1
