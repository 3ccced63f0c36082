"""The thread that calls: whether it can launch, and where a kernel's host code says to it that it has."""

from __future__ import annotations

import ctypes
import functools
import threading

import torch

from . import hardware


class Caller(threading.local):
    """What of a launch belongs to the calling thread."""

    def __init__(self) -> None:
        self.has_context = False
        self.launched = ctypes.c_int32()
        self.address = ctypes.addressof(self.launched)

    def get_ready(self) -> None:
        """Before its first launch; another thread may have been the first to use CUDA."""
        self.has_context = hardware.make_context_current()


caller = Caller()


@functools.cache
def several_devices() -> bool:
    """Whether there is another device than the current one."""
    return torch.cuda.device_count() > 1
