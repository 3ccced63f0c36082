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
        at_once = _AT_ONCE.get(size)
        most = self.sms // size if at_once is None else self.sms * at_once // _OF_SMS
        return min(num_sms // size, most)


# Clusters lie within GPCs, and those that have lost SMs in manufacture hold fewer. Of 132 SMs, no more than
# on one H200 (39 of three, 30 of four, 15 of eight; docs/performance.md, 78) and one H100 (28 of four, 14 of
# eight). The same is taken for all cards, so that cards of one name choose alike.
_AT_ONCE = {3: 38, 4: 28, 8: 14}
_OF_SMS = 132

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
