"""The road as Dynamo takes it where a call cannot be an op: it calls `run`, and does not look inside.

Imported by what Dynamo traces, and by nothing else, as it loads Dynamo. Each is one object: for another,
Dynamo of torch 2.8 would compile its caller anew. Where the graph may not be broken, Dynamo says the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..contract import ambient
from ..epilogue import functions
from . import epilogued as of_epilogues
from . import k_grouped as of_columns
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

epilogued: dict[str, Callable[..., Any]] = {
    why: torch.compiler.disable(of_epilogues.run, reason=reason) for why, reason in _REASONS.items()
}
"""The same of a product with an epilogue."""

k_grouped: dict[str, Callable[..., Tensor]] = {
    why: torch.compiler.disable(of_columns.run, reason=reason) for why, reason in _REASONS.items()
}
"""The same of a product of groups of columns."""

function_name: Callable[[functions.Function, int], str] = torch.compiler.assume_constant_result(
    functions.register
)
"""What a function of an epilogue is called, which is said once, when the call is traced."""
