"""From a call to the problem that it poses, to a kernel that is ready, and how it is launched."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch

from .. import settings
from ..contract import Call
from ..plan import launch_policy
from ..plan.config import KernelConfig
from ..plan.launch_policy import LaunchFlags
from ..plan.limits import STORED_BYTES
from ..plan.problem import GemmProblem
from . import builder, hardware, semaphores
from .jit import NotCompiledError

_OUT_NAMES = {getattr(torch, name): name for name in STORED_BYTES}

_launched: set[tuple[Hashable, int]] = set()
"""Kernels, by what they are of and device, whose launch has succeeded: CUDA has loaded them there."""


class Launch(NamedTuple):
    """A kernel that is ready, and what it is launched with.

    A tuple, as a warm call takes it apart.
    """

    kernel: Callable[..., None]
    num_sms: int
    flags: int
    is_drawn: bool

    def options(self, device: int, status: int = 0, more_flags: int = 0) -> tuple[int, int, int, int]:
        """What the kernel takes between its tensors and its grouping, on a device's current stream.

        Args:
            device: the index of the current CUDA device.
            status: the address where the kernel's host code says whether it has launched, if it is to check
                its operands; 0 if they are known to be in order.
            more_flags: of :class:`LaunchFlags`, beside those of the choice.
        """
        semaphore = semaphores.address(device) if self.is_drawn else 0
        return self.num_sms, self.flags | more_flags, semaphore, status


def problem_of(call: Call, device: int) -> GemmProblem:
    """What a call asks to be computed on CUDA device ``device``, under the settings in force.

    Raises:
        ValueError: the device has fewer multiprocessors than the settings ask for.
    """
    now = settings.current()
    card = hardware.card(device)
    if now.num_sms is not None and now.num_sms > card.sms:
        raise ValueError(
            f"config(num_sms={now.num_sms}) is in force, but cuda:{device} has {card.sms} multiprocessors; "
            "want at most that, or None for all"
        )
    n, k = call.b.shape[-2:]
    groups = len(call.b) if call.layout.is_grouped else 1
    if call.layout.has_result_per_group:
        groups = call.shape[0]
    return GemmProblem(
        call.layout.rows(call.a.shape[-2], groups, call.count),
        n,
        k,
        _OUT_NAMES[call.out_dtype],
        card.sms if now.num_sms is None else now.num_sms,
        call.layout,
        groups,
        now.batch_invariant,
        card=card,
        recipe=call.recipe,
        accumulate=call.accumulate,
        narrowing=call.form.narrowing,
        turn=call.form.turn,
    )


def select(problem: GemmProblem, tma_scales: bool = False) -> KernelConfig:
    """The configuration that runs ``problem`` on its card, as :func:`cute_gemm.plan.choice.choose`."""
    # Rates, factors and what was measured are of use on a GPU alone: 5 ms of the package's import.
    from ..plan import choice

    return choice.choose(problem, tma_scales)


def prepare(
    problem: GemmProblem,
    of: builder.Program | KernelConfig,
    pdl: bool | None = False,
    flags: LaunchFlags | None = None,
    has_epilogue: bool = False,
) -> Launch:
    """A kernel, from this process, from disk or compiled now, and how to launch it.

    Args:
        problem: what is to be computed.
        of: a configuration, or a program made by hand.
        pdl: whether by programmatic dependent launch; None where it pays.
        flags: how to launch, ``pdl`` included; None for what :func:`launch_policy.launch_flags` says.
        has_epilogue: whether a program is a configuration with a call's epilogue.

    Raises:
        NotCompiledError: it has to be compiled, and calls are not to. The message names a command.
    """
    config = of if isinstance(of, KernelConfig) else of.config
    if flags is None:
        flags = launch_policy.launch_flags(problem, config, pdl)
    is_drawn = launch_policy.is_drawn(problem, config)
    try:
        kernel = builder.instance(of)
    except NotCompiledError as error:
        remedy = _remedy(problem, of, has_epilogue, error.remedy)
        call = problem.layout.describe(problem)
        raise NotCompiledError(error.label, error.why, remedy, call) from None
    return Launch(kernel, problem.num_sms, int(flags), is_drawn)


def _remedy(
    problem: GemmProblem, of: builder.Program | KernelConfig, has_epilogue: bool, of_kernel: str
) -> str:
    """What makes the kernel of a call, in words; ``of_kernel`` makes it whatever call needs it."""
    from ..plan import choice

    if problem.recipe.scales_columns:
        return of_kernel
    command = choice.warmup_command(problem)
    if has_epilogue:
        return f"`{command} --epilogue WHERE` makes it, WHERE being the epilogue, such as module:name"
    if isinstance(of, KernelConfig):
        return f"{of_kernel}, and `{command}` all that such calls may need"
    return of_kernel


def choose(problem: GemmProblem, tma_scales: bool, device: int) -> KernelConfig:
    """The configuration to launch for ``problem`` on the current device, whose index is ``device``.

    Raises:
        RuntimeError: as :func:`require_capturable`.
    """
    config = select(problem, tma_scales)
    require_capturable(config, problem, device)
    return config


def require_capturable(of: builder.Program | KernelConfig, problem: GemmProblem, device: int) -> None:
    """Checks that a kernel for ``problem`` may be launched now: :func:`require_loaded`.

    Raises:
        RuntimeError: it may not.
    """
    why = f"{problem.layout.describe(problem)} needs the kernel {builder.label(of)}"
    require_loaded(_identity(of), why, "scales laid out alike, ", device)


def require_loaded(identity: Hashable, why: str, alike: str, device: int) -> None:
    """Checks that a kernel may be launched now: the first launch on a device loads it, which no graph holds.

    Args:
        identity: of the kernel, as it is noted.
        why: what needs which kernel.
        alike: what else has to be the same for that kernel to be chosen.
        device: the index of the current CUDA device.

    Raises:
        RuntimeError: the current stream is being captured into a CUDA graph, and the kernel has not been
            launched on this device before.
    """
    if (identity, device) not in _launched and _is_capturing():
        raise RuntimeError(
            f"{why}, which was not called on cuda:{device} before and cannot be loaded while a CUDA graph is "
            f"captured; make the same call, {alike}once before the capture"
        )


def note_launched(of: Hashable, device: int) -> None:
    """Remembers that a kernel's launch on a device has succeeded. One that failed may have loaded nothing.

    Args:
        of: a program or a configuration.
        device: the index of the current CUDA device.
    """
    _launched.add((_identity(of), device))


def _identity(of: Hashable) -> Hashable:
    # Not a program itself, which would be kept alive.
    return (of.config, of.sources.digest) if isinstance(of, builder.Program) else of


def _is_capturing() -> bool:
    # A torch without CUDA raises when asked.
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
