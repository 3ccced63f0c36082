"""What of a GPU decides how long kernels take; :mod:`cute_gemm.runtime.hardware` asks the device."""

from __future__ import annotations

from dataclasses import dataclass

from .data_sheets import DATA_SHEETS


@dataclass(frozen=True, slots=True)
class Card:
    """A Hopper GPU, as its driver describes it.

    Args:
        name: as torch gives it.
        sms: multiprocessors.
        sm_mhz: the highest clock of a multiprocessor.
        dram_bytes_per_us: what its memory transfers at its highest clock.
        l2_bytes: size of L2.
        tensor_share: of what a multiprocessor's tensor cores do in a clock on an H100, the share that they do
            here. No driver tells.
    """

    name: str
    sms: int
    sm_mhz: int
    dram_bytes_per_us: float
    l2_bytes: int
    tensor_share: float = 1.0

    def clusters_at_once(self, size: int, num_sms: int) -> int:
        """How many clusters of ``size`` CTAs, one an SM, are sure to run at once on so many of its SMs."""
        filled = int(self.sms * _FILLED.get(size, 1) + 0.5) // size
        return min(num_sms // size, filled)


# Clusters lie within GPCs, and those that have lost SMs in manufacture hold fewer. Of one H200's 132 SMs
# clusters of three fill 117, those of eight 120 (docs/performance.md, 78). Of one H100's, clusters of four
# fill 114, those of eight 112. The same is taken for all cards, so that cards of one name choose alike.
_FILLED = {3: 114 / 132, 4: 114 / 132, 8: 112 / 132}

# By their data sheets an H20's 78 multiprocessors reach 296 TFLOP/s of FP8, an H100's 132 reach 1979.
_TENSOR_SHARES = dict.fromkeys(("NVIDIA H20", "NVIDIA H20-3e"), 0.253)


def tensor_share(name: str) -> float:
    """:attr:`Card.tensor_share` of the card of this name."""
    return _TENSOR_SHARES.get(name, 1.0)


CARDS: dict[str, Card] = {
    name: Card(name, sheet.sms, sheet.sm_mhz, sheet.bytes / 1e6, sheet.l2_bytes, tensor_share(name))
    for name, sheet in DATA_SHEETS.items()
}
"""Cards by name, by their data sheets, for machines without them."""

H100 = CARDS["NVIDIA H100 80GB HBM3"]
"""What is assumed where no device is asked."""
