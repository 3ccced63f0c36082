"""What layers share that keep FP8 values of their weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .weights import KeptWeight


class Keeping(nn.Module):
    """A module with a parameter ``weight``, whose FP8 values it keeps beside its state."""

    _kept: KeptWeight

    def forget(self) -> None:
        """Lets go of the FP8 values of the weight; the next call makes them anew.

        Call it where the weight was changed behind autograd's back, as by ``weight.data.copy_(w)``. It is not
        needed where an optimiser of torch did it, or what goes with its step.
        """
        self._kept.forget()

    def __setattr__(self, name: str, value: Any) -> None:
        # FSDP2 sets the attribute where it gathers a weight, or lets go of it: the same object may have other
        # values then, with the same count of changes.
        super().__setattr__(name, value)
        if name == "weight":
            self.__dict__.setdefault("_kept", KeptWeight()).forget()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._kept.forget()
        return super()._apply(fn, recurse)
