"""The weights of a checkpoint that `cute-gemm demo` can multiply with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

import cute_gemm
from cute_gemm.measure.errors import CommandError
from cute_gemm.measure.files import named
from cute_gemm.plan.problem import why_impossible
from cute_gemm.quantize import scale_blocks

from .checkpoints import Stored, tensors_of

# What FP8 checkpoints append to a weight's name to name its scales, all of which multiply.
_SCALE_SUFFIXES = "_scale_inv", "_scale"
_FLOATING = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_SCALES = ("F64", "F32", "F16", "BF16", "F8_E8M0")


@dataclass(frozen=True)
class Weight:
    """A matrix of a checkpoint that the operation takes as its B operand.

    Args:
        name: of its tensor; of the first matrix of a 3-D one, with ``[0]`` behind it.
        n, k: its extents.
        stored: the tensor.
        scales: the tensor of its scales: one in all, one a row, or one per 128x128 block.
        expert: which matrix of a 3-D tensor it is.
    """

    name: str
    n: int
    k: int
    stored: Stored
    scales: Stored | None = None
    expert: int | None = None

    def load(self, device: torch.device) -> torch.Tensor:
        """The weight as fp32 [n, k]; where the checkpoint holds scales for it, they are multiplied in.

        Raises:
            CommandError: the file has changed.
        """
        matrix = self.stored.load(device, self.expert)
        if self.scales is None:
            return matrix.float()
        of_expert = self.expert is not None and len(self.scales.shape) > 0
        scales = self.scales.load(device, self.expert if of_expert else None).float()
        if scales.shape == (scale_blocks(self.n), scale_blocks(self.k)):
            return cute_gemm.dequantize_128x128(matrix, scales)
        return matrix.float() * scales.reshape(-1, 1)


@dataclass(frozen=True)
class Skipped:
    """A tensor of two dimensions or more that is not run, and why."""

    name: str
    reason: str


def find(path: Path) -> tuple[list[Weight], list[Skipped]]:
    """List the matrices of a checkpoint without loading them: those the operation takes, and others.

    Of a 3-D tensor, as which experts may be stored, the first matrix is taken.

    Args:
        path: as for `checkpoints.tensors_of`.

    Raises:
        CommandError: as `checkpoints.tensors_of`; or the checkpoint has no tensor of two dimensions or more.
    """
    tensors = tensors_of(path)
    weights: list[Weight] = []
    skipped: list[Skipped] = []
    for each in tensors.values():
        if len(each.shape) < 2 or _is_scale(each, tensors):
            continue
        for found in _examined(each, tensors):
            if isinstance(found, Weight):
                weights.append(found)
            else:
                skipped.append(found)
    if not weights and not skipped:
        raise CommandError(
            f"{named(path)} holds no 2-D tensor; a weight is stored as [out_features, in_features]"
        )
    return weights, skipped


def _examined(tensor: Stored, tensors: Mapping[str, Stored]) -> Iterator[Weight | Skipped]:
    *outer, n, k = tensor.shape
    scales = [tensors[tensor.name + suffix] for suffix in _SCALE_SUFFIXES if tensor.name + suffix in tensors]
    if reason := _objection(tensor, scales):
        yield Skipped(tensor.name, reason)
        return
    scale = scales[0] if scales else None
    if not outer:
        yield Weight(tensor.name, n, k, tensor, scale)
    else:
        yield Weight(f"{tensor.name}[0]", n, k, tensor, scale, expert=0)
        if outer[0] > 1:
            rest = "of a 3-D tensor the first matrix is run, taken as [out_features, in_features]"
            yield Skipped(f"{tensor.name}[1:{outer[0]}]", rest)


def _objection(tensor: Stored, scales: list[Stored]) -> str:
    """Why a tensor is not run, in words; empty if it, or its first matrix, is."""
    *outer, n, k = tensor.shape
    if tensor.dtype not in _FLOATING:
        return f"{tensor.dtype} is not a floating-point type"
    if len(outer) > 1 or 0 in outer:
        return (
            f"its shape is {list(tensor.shape)}; a weight has two dimensions, or three with those of experts"
        )
    if scales and tensor.dtype != "F8_E4M3":
        return f"{tensor.dtype} with scales is unknown here; F8_E4M3 is what has them"
    if len(scales) > 1:
        return f"it has scales twice, {scales[0].name} and {scales[1].name}"
    for each in scales:
        if each.dtype not in _SCALES:
            return f"its scales are {each.dtype}, which is not a type for them"
        if not _fit(each.shape, outer, n, k):
            wanted = "one per 128x128 block, one a row, or one in all"
            return f"its scales have shape {list(each.shape)}, which is not {wanted}"
    return why_impossible(n, k)


def _fit(scales: tuple[int, ...], outer: list[int], n: int, k: int) -> bool:
    """Whether scales of a shape are one of a matrix, one of each row, or one per 128x128 block."""
    if outer and scales:
        if scales[0] != outer[0]:
            return False
        scales = scales[1:]
    return scales in ((), (1,), (1, 1), (n,), (n, 1), (scale_blocks(n), scale_blocks(k)))


def _is_scale(tensor: Stored, tensors: Mapping[str, Stored]) -> bool:
    return any(
        tensor.name.endswith(suffix) and tensor.name.removesuffix(suffix) in tensors
        for suffix in _SCALE_SUFFIXES
    )
