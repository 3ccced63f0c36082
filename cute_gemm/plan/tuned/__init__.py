"""Measured choices of kernels: a JSON file for each device name, asked before the cost model.

`table` is the format and the lookup, `files` finds, reads and writes files. Those in this directory come with
the package; `cute-gemm tune` makes the user's own, which win.
"""

from __future__ import annotations

import torch

from ...runtime import hardware
from ..problem import GemmProblem, KernelConfig
from .files import tables


def choice(problem: GemmProblem) -> KernelConfig | None:
    """What was measured to be best for ``problem`` on devices named as the current one is.

    None if nothing was, as on a machine without a Hopper GPU.
    """
    if not hardware.is_hopper():
        return None
    found = (table.choice(problem) for table in tables(torch.cuda.get_device_name()))
    return next((config for config in found if config is not None), None)
