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
        flops: FP8 (e4m3) operations per second of its tensor cores, without sparsity.
        bytes: per second that its memory delivers.
    """

    flops: float
    bytes: float

    def limit_us(self, work: Counted) -> float:
        """The least time in microseconds that the data sheet allows.

        The larger of what the operations take, and of what it takes to read the operands once and to write
        the result once.
        """
        return max(work.flops / self.flops, work.bytes_moved / self.bytes) * 1e6


# NVIDIA's data sheets; they give operations with sparsity, which are twice as many.
_DATA_SHEETS = {
    "NVIDIA H100 80GB HBM3": DataSheet(1979e12, 3.35e12),
    "NVIDIA H100 NVL": DataSheet(1671e12, 3.9e12),
    "NVIDIA H100 PCIe": DataSheet(1513e12, 2.0e12),
    "NVIDIA H200": DataSheet(1979e12, 4.8e12),
    "NVIDIA H200 NVL": DataSheet(1671e12, 4.8e12),
    "NVIDIA GH200 480GB": DataSheet(1979e12, 4.0e12),
    "NVIDIA GH200 144G HBM3e": DataSheet(1979e12, 4.9e12),
}


def data_sheet(device: str) -> DataSheet | None:
    """The data sheet of a device of this name, as torch gives it; None for one that is not known here."""
    return _DATA_SHEETS.get(device)
