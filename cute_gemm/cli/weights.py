"""The weights of a safetensors file that `cute-gemm demo` can multiply with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

import cute_gemm
from cute_gemm.measure.errors import CommandError
from cute_gemm.plan.problem import why_impossible
from cute_gemm.quantize import scale_blocks

# What FP8 checkpoints append to a weight's name to name its 128x128 scales.
_SCALE_SUFFIX = "_scale_inv"
_FLOATING = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


@dataclass(frozen=True)
class Weight:
    """A 2-D tensor of a safetensors file that the operation takes as its B operand."""

    file: Path
    name: str
    n: int
    k: int
    has_scales: bool

    def load(self, device: torch.device) -> torch.Tensor:
        """The weight as fp32 [n, k]; where the file holds scales for it, they are multiplied in."""
        with safe_open(self.file, framework="pt", device=str(device)) as file:
            stored = file.get_tensor(self.name)
            if not self.has_scales:
                return stored.float()
            scales = file.get_tensor(self.name + _SCALE_SUFFIX)
        return cute_gemm.dequantize_128x128(stored, scales.float())


@dataclass(frozen=True)
class Skipped:
    """A 2-D tensor that the operation cannot take, and why."""

    name: str
    reason: str


def find(path: Path) -> tuple[list[Weight], list[Skipped]]:
    """List the 2-D tensors of a safetensors file without loading them: those the operation takes, and others.

    Raises:
        CommandError: the file is missing, is not a safetensors file, or has no 2-D tensor.
    """
    if not path.is_file():
        raise CommandError(f"no such file: {path}")
    weights: list[Weight] = []
    skipped: list[Skipped] = []
    try:
        with safe_open(path, framework="pt") as file:
            headers = {name: file.get_slice(name) for name in sorted(file.keys())}
            for name, header in headers.items():
                shape, dtype = header.get_shape(), header.get_dtype()
                scales_another = name.endswith(_SCALE_SUFFIX) and name.removesuffix(_SCALE_SUFFIX) in headers
                if len(shape) != 2 or scales_another:
                    continue
                n, k = shape
                scales = headers.get(name + _SCALE_SUFFIX)
                reason = why_impossible(n, k)
                if dtype not in _FLOATING:
                    reason = f"{dtype} is not a floating-point type"
                if scales is not None and dtype != "F8_E4M3":
                    reason = f"{dtype} with scales is unknown here; F8_E4M3 is what has them"
                elif scales is not None and scales.get_shape() != [scale_blocks(n), scale_blocks(k)]:
                    reason = f"its scales have shape {scales.get_shape()}, which is not one per 128x128 block"
                if reason:
                    skipped.append(Skipped(name, reason))
                else:
                    weights.append(Weight(path, name, n, k, has_scales=scales is not None))
    except SafetensorError as error:
        raise CommandError(f"{path} is not a safetensors file: {error}") from error
    if not weights and not skipped:
        raise CommandError(f"{path} holds no 2-D tensor; a weight is stored as [out_features, in_features]")
    return weights, skipped
