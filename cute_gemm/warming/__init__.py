"""Kernels made before calls need them: which ones those are, and making them in several processes.

- `needs` says which kernels the calls of shapes, or of a model's layers, may take.
- `kernels` makes one, in whatever process, and says whether it is there.
- `work` makes many; `warmup` is what users call.
"""

from .work import Warmed, warmup

__all__ = ["Warmed", "warmup"]
