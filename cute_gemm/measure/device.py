"""The GPU that a command measures on."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from ..plan.config import KernelConfig
from ..plan.quantizer import Quantizer
from ..runtime import hardware
from ..runtime.builder import Program
from ..runtime.warmup import compile_and_report
from .console import in_a_line
from .errors import CommandError


def require_hopper(command: str, otherwise: str) -> None:
    """Raises unless the current CUDA device is a Hopper GPU.

    Args:
        command: what measures.
        otherwise: what it does on any machine, in words.

    Raises:
        CommandError: it is none; or there is none.
    """
    if not torch.cuda.is_available():
        raise CommandError(f"{command} times a GPU, and torch sees none; {otherwise}")
    if not hardware.is_hopper():
        raise CommandError(f"{command} times a Hopper GPU; this is {hardware.describe()}")


def compile_kernels(
    configs: Iterable[KernelConfig | Quantizer], make: Callable[[KernelConfig], Program] | None = None
) -> None:
    """Compile what will be timed, as `warmup.compile_and_report`.

    Raises:
        CommandError: a process that compiles was killed, or the compiler cannot be used.
    """
    try:
        compile_and_report(configs, make)
    except RuntimeError as error:
        raise CommandError(in_a_line(error)) from error
