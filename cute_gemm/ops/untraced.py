"""The road as Dynamo takes it where arguments are none that an op has: it calls `run`, and does not look inside.

Imported by what Dynamo traces, and by nothing else, as it loads Dynamo. `run` is one object: for another,
Dynamo of torch 2.8 would compile its caller anew.
"""

from __future__ import annotations

import torch

from . import road

run = torch.compiler.disable(
    road.run,
    reason="an argument of a cute_gemm operation is not of its kind (a pair is no tuple of two tensors, a tensor "
    "is of a subclass such as DTensor, a number is none): the same call without torch.compile says which",
)
