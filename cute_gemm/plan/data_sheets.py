"""What the data sheets of cards say, and the limits that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Counted(Protocol):
    """Something to compute of which the operations and the bytes are known."""

    @property
    def flops(self) -> int: ...

    @property
    def bytes_moved(self) -> int: ...


@dataclass(frozen=True)
class DataSheet:
    """What a card's data sheet says.

    Args:
        sms: multiprocessors.
        sm_mhz: their highest clock.
        l2_bytes: size of L2.
        flops: FP8 (e4m3) operations per second of its tensor cores, without sparsity.
        bytes: per second that its memory delivers.
    """

    sms: int
    sm_mhz: int
    l2_bytes: int
    flops: float
    bytes: float

    def limit_us(self, work: Counted) -> float:
        """The least time in microseconds that the data sheet allows.

        The larger of what the operations take, and of what it takes to read the operands once and to write
        the result once.
        """
        return max(work.flops / self.flops, work.bytes_moved / self.bytes) * 1e6


_MIB = 1 << 20

DATA_SHEETS: dict[str, DataSheet] = {
    "NVIDIA H100 80GB HBM3": DataSheet(132, 1980, 50 * _MIB, 1979e12, 3.35e12),
    "NVIDIA H100 NVL": DataSheet(132, 1785, 50 * _MIB, 1671e12, 3.9e12),
    "NVIDIA H100 PCIe": DataSheet(114, 1755, 50 * _MIB, 1513e12, 2.0e12),
    "NVIDIA H200": DataSheet(132, 1980, 60 * _MIB, 1979e12, 4.8e12),
    "NVIDIA H200 NVL": DataSheet(132, 1785, 50 * _MIB, 1671e12, 4.8e12),
    "NVIDIA GH200 480GB": DataSheet(132, 1980, 50 * _MIB, 1979e12, 4.0e12),
    "NVIDIA GH200 144G HBM3e": DataSheet(132, 1980, 50 * _MIB, 1979e12, 4.9e12),
    "NVIDIA H20": DataSheet(78, 1980, 60 * _MIB, 296e12, 4.0e12),
    "NVIDIA H20-3e": DataSheet(78, 1980, 60 * _MIB, 296e12, 4.8e12),
}
"""By the name of a card. NVIDIA gives operations with sparsity, which are twice as many."""


def data_sheet(device: str) -> DataSheet | None:
    """The data sheet of a device of this name, as torch gives it; None for one that is not known here."""
    return DATA_SHEETS.get(device)
