"""What of a GPU decides how long kernels take; :mod:`cute_gemm.runtime.hardware` asks the device."""

from __future__ import annotations

from dataclasses import dataclass

from .limits import H100_SMS


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


# By their data sheets an H20's 78 multiprocessors reach 296 TFLOP/s of FP8, an H100's 132 reach 1979.
_TENSOR_SHARES = dict.fromkeys(("NVIDIA H20", "NVIDIA H20-3e"), 0.253)


def tensor_share(name: str) -> float:
    """:attr:`Card.tensor_share` of the card of this name."""
    return _TENSOR_SHARES.get(name, 1.0)


H100 = Card("NVIDIA H100 80GB HBM3", H100_SMS, 1980, 3.35232e6, 50 << 20)
"""What is assumed where no device is asked."""

CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        H100,
        Card("NVIDIA H200", H100_SMS, 1980, 4.916736e6, 50 << 20),
        Card("NVIDIA H100 NVL", H100_SMS, 1785, 3.938e6, 50 << 20),
        Card("NVIDIA H100 PCIe", 114, 1755, 2.039e6, 50 << 20),
        Card("NVIDIA GH200 480GB", H100_SMS, 1980, 4.023e6, 50 << 20),
        Card("NVIDIA H20", 78, 1980, 4.023e6, 60 << 20, tensor_share("NVIDIA H20")),
    )
}
"""Cards by name, for machines without them. The figures of the first two are their drivers', those of the
others are from their data sheets."""
