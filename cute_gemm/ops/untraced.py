"""The road as Dynamo takes it where a call cannot be an op: it calls `run`, and does not look inside.

Imported by what Dynamo traces, and by nothing else, as it loads Dynamo. Each is one object: for another,
Dynamo of torch 2.8 would compile its caller anew. Where the graph may not be broken, Dynamo says the reason.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..contract import ambient
from . import epilogued as of_epilogues
from . import road

_OPERATION = "an operation of cute_gemm"
_REASONS = {
    "kinds": f"an argument of {_OPERATION} is not of the kind or dtype that it takes; the same call outside "
    "of torch.compile says which. A subclass of torch.Tensor, such as DTensor, is none: pass the tensor "
    "inside, such as `a.to_local()`",
    "transform": ambient.in_a_transform(_OPERATION),
    "forward mode": ambient.in_forward_mode(_OPERATION),
    "gradient": f"an argument of {_OPERATION} requires a gradient, which this operation does not compute; "
    "wanted `.detach()` of it, or a call under `torch.no_grad()` or inside a torch.autograd.Function",
}

run: dict[str, Callable[..., Tensor]] = {
    why: torch.compiler.disable(road.run, reason=reason) for why, reason in _REASONS.items()
}
"""By why it cannot: the road of an eager call, which computes, or says what is wrong."""

epilogued: Callable[..., Tensor] = torch.compiler.disable(
    of_epilogues.run_checked,
    reason="a product with an epilogue is no op; wanted the call outside of torch.compile, or a graph that "
    "may be broken",
)
"""Products with an epilogue: functions of Python's, which no op takes."""
