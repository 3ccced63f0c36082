"""From a quantiser's configuration to a launch: the road of :mod:`.launcher`, without a choice.

A kernel's host code judges what it is given. Where it declines, torch quantises, on the same device.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..plan.quantizer import BlockQuantizer, BothWaysQuantizer, NormQuantizer, RowQuantizer
from . import caller, compiler, hardware, selection

Quantizer = RowQuantizer | BlockQuantizer | BothWaysQuantizer | NormQuantizer

_kernels: dict[tuple[Quantizer, int], Callable[..., None]] = {}
"""Of quantisers that were launched on a device."""
