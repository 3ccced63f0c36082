"""What may be set around a call: states of torch, and settings of the library."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch
from api_values import chance
from torch.autograd import forward_ad

import cute_gemm

sys.path.append(str(Path(__file__).parents[1]))

from restoring import restored


def _set_device(name: str | None) -> None:
    # None takes the mode away, where "cpu" would leave one.
    torch.set_default_device(name)


States = tuple[Callable[[], AbstractContextManager[Any]], ...]


def _default_device() -> AbstractContextManager[Any]:
    return restored(lambda: None, _set_device, "meta")


def _with_device() -> AbstractContextManager[Any]:
    return torch.device("meta")


OF_A_THREAD: States = (
    lambda: torch.autocast("cpu", torch.float16),
    lambda: torch.autocast("cuda", torch.bfloat16, enabled=torch.cuda.is_available()),
    _with_device,
    torch.inference_mode,
    torch.no_grad,
)
"""States of the thread that sets them."""

OF_A_PROCESS: States = (
    forward_ad.dual_level,
    lambda: restored(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    lambda: restored(torch.get_default_dtype, torch.set_default_dtype, torch.bfloat16),
    _default_device,
    lambda: restored(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"),
    lambda: restored(torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True),
)
"""States of all threads."""


def draw_surroundings(draw: random.Random, alone: bool = True) -> ExitStack:
    """States and settings to enter, often none.

    Args:
        draw: decides which.
        alone: whether no other thread runs.
    """
    chosen = ExitStack()
    if chance(draw, 0.3):
        states = OF_A_THREAD + OF_A_PROCESS if alone else OF_A_THREAD
        some = draw.sample(states, draw.choice((1, 1, 2)))
        # Torch has one mode for both, and 2.8 cannot leave it within itself.
        for state in some[:1] if {_default_device, _with_device} <= {*some} else some:
            chosen.enter_context(state())
    if chance(draw, 0.3):
        settings = {
            "num_sms": draw.choice((None, 64)),
            "batch_invariant": chance(draw, 0.5),
            "pdl": draw.choice((None, False, True)),
        }
        chosen.enter_context(
            cute_gemm.config(**{name: settings[name] for name in draw.sample(list(settings), 2)})
        )
    return chosen
