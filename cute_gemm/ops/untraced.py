"""The road as Dynamo takes it: it calls `run`, and does not look inside.

Imported by what Dynamo traces, and by nothing else, as it loads Dynamo. `run` is one object: for another,
Dynamo of torch 2.8 would compile its caller anew.
"""

from __future__ import annotations

import torch

from . import road

run = torch.compiler.disable(road.run)
