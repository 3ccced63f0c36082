"""Added to what D holds, by TMA."""

from dataclasses import dataclass

import cutlass.cute as cute

from ...plan.limits import MMA_M
from ..sm90.tma import store_atom
from .tma_store import TmaOut, TmaStore


@dataclass(frozen=True)
class TmaAddStore(TmaStore):
    """:class:`TmaStore` by which L2 adds each element to that of D, in D's type: nobody loads D.

    Each element is added to once, so the bits do not depend on the order of tiles.
    """

    def operands(self, mD: cute.Tensor) -> TmaOut:
        """As :meth:`store.Store.operands`."""
        return TmaOut(*store_atom(mD, self.layout, (MMA_M, self.epi_n), adds=True), mD)
