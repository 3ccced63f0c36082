"""What is set for the process: DeepGEMM's setters hold for all of its threads, until they are called again.

:func:`cute_gemm.config` holds for a scope, of one thread. Each product is called in one that says what was
set here; of what was not set, a scope of the caller's holds.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ... import config
from ...plan.limits import CONTIGUOUS_ALIGNMENT
from . import elsewhere

_said: dict[str, Any] = {}
"""Of the settings of :func:`cute_gemm.config`, those that were set."""

_scope: AbstractContextManager[Any] = nullcontext()
"""It says them. Any number of threads may be in it."""

_lock = threading.Lock()
"""Two setters at once: both hold."""

_hints: dict[str, Any] = {"tc_util": 100, "compile_mode": 0, "mk_alignment": CONTIGUOUS_ALIGNMENT}
"""What is kept for its getter, as no result and no kernel here depends on it."""


def scope() -> AbstractContextManager[Any]:
    """What a product is called in."""
    # Dynamo enters no scope that was made outside of what it traces.
    return config(**_said) if torch.compiler.is_compiling() else _scope


def run(operation: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """An operation under what was set for the process, which computes no gradient and refuses none."""
    with scope():
        if torch.is_grad_enabled():
            with torch.no_grad():
                operation(*arguments, **named)
        else:
            operation(*arguments, **named)


def _say(**changes: Any) -> None:
    global _scope
    with _lock:
        said = _said | changes
        _scope = config(**said)
        _said.update(changes)


class OutOfRange(ValueError, RuntimeError):
    """A setting that cannot be: what it is, and what DeepGEMM raises then."""


def set_num_sms(new_num_sms: int) -> None:
    """The multiprocessors that products use at most; 0 for all of a device.

    Raises:
        OutOfRange: it is negative, or above what the current CUDA device has, if torch uses one by now. If
            not, the first product says so.
    """
    count = operator.index(new_num_sms)
    # Asking a device would begin to use CUDA, and a child that is forked later could not.
    most = _multiprocessors() if torch.cuda.is_initialized() else None
    if count < 0 or (most is not None and count > most):
        raise OutOfRange(f"new_num_sms is {count}; wanted 0 to {most or 'what a device has'}")
    _say(num_sms=count or None)
    elsewhere.tell("set_num_sms", count)


def get_num_sms() -> int:
    """What was set, else all of the current CUDA device."""
    return _said.get("num_sms") or _multiprocessors()


def _multiprocessors() -> int:
    return torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count


def set_pdl(new_enable_pdl: bool) -> None:
    """Whether products are launched by programmatic dependent launch; unless set, where it pays."""
    _say(pdl=bool(new_enable_pdl))
    elsewhere.tell("set_pdl", bool(new_enable_pdl))


def get_pdl() -> bool:
    """What was set, else False."""
    return bool(_said.get("pdl"))


def set_batch_invariant(new_value: bool) -> None:
    """Whether a row of a result has the same bits whatever it is multiplied with."""
    _say(batch_invariant=bool(new_value))
    elsewhere.tell("set_batch_invariant", bool(new_value))


def get_batch_invariant() -> bool:
    """What was set, else False."""
    return bool(_said.get("batch_invariant"))


def set_tc_util(new_tc_util: int) -> None:
    """A hint for which there is no use here: how much of the tensor cores to use, in percent.

    Raises:
        OutOfRange: it is not 0 to 100.
    """
    value = operator.index(new_tc_util)
    if not 0 <= value <= 100:
        raise OutOfRange(f"new_tc_util is {value}; wanted 0 to 100")
    _hints["tc_util"] = value or 100
    elsewhere.tell("set_tc_util", value)


def get_tc_util() -> int:
    """What was set, else 100."""
    return int(_hints["tc_util"])


def set_ignore_compile_dims(new_value: bool) -> None:
    """A hint for which there is no use here: sizes are arguments of kernels."""
    elsewhere.tell("set_ignore_compile_dims", new_value)


def set_block_size_multiple_of(new_value: int | tuple[int, int]) -> None:
    """A hint for which there is no use here: kernels bear any size of a group."""
    elsewhere.tell("set_block_size_multiple_of", new_value)


def set_compile_mode(new_value: int) -> None:
    """A hint for which there is no use here: a call that is to compile only is made."""
    _hints["compile_mode"] = operator.index(new_value)
    elsewhere.tell("set_compile_mode", new_value)


def get_compile_mode() -> int:
    """What was set, else 0."""
    return int(_hints["compile_mode"])


def use_deterministic_algorithms(new_value: bool) -> None:
    """Nothing to set: the same call always gives the same bits."""
    elsewhere.tell("use_deterministic_algorithms", new_value)


def set_mk_alignment_for_contiguous_layout(new_value: int) -> None:
    """What rows of groups are aligned to: in the psum layout 1 to 1024, else a multiple of 128.

    Products say where it is another.
    """
    _hints["mk_alignment"] = operator.index(new_value)
    elsewhere.tell("set_mk_alignment_for_contiguous_layout", new_value)


def get_mk_alignment_for_contiguous_layout() -> int:
    """What was set, else 128."""
    return int(_hints["mk_alignment"])


def get_theoretical_mk_alignment_for_contiguous_layout(
    expected_m: int | None = None, num_groups: int | None = None
) -> int:
    """What suits groups of about so many rows: on a Hopper GPU, and where there is no GPU, always 128."""
    other = elsewhere.of_current_device()
    if other is not None:
        given = [each for each in (expected_m, num_groups) if each is not None]
        return int(other.get_theoretical_mk_alignment_for_contiguous_layout(*given))
    return CONTIGUOUS_ALIGNMENT
