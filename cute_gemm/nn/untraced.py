"""A layer as Dynamo takes it where its gradient does not go through autograd: it is called, not traced.

Imported by what Dynamo traces, and by nothing else, as it loads Dynamo.
"""

from __future__ import annotations

import torch

from . import function, grouped_function

_REASON = (
    "the weight of an FP8 layer has a `main_grad`, which backward adds to, past autograd; wanted "
    "torch.compile without fullgraph=True, or gradients in `.grad`"
)

linear = torch.compiler.disable(function.linear, reason=_REASON)
grouped_linear = torch.compiler.disable(grouped_function.linear, reason=_REASON)
