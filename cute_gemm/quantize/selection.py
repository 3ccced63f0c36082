"""Which rows are quantised: what a call says of them, checked, and which that are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..contract import grouping, memory
from ..plan.layouts import CONTIGUOUS, MASKED, OFFSETS, Count
from ..plan.limits import MAX_ALIGNMENT, MAX_GROUPS
from ..row_groups import offsets_row_groups

KINDS = {"rows": "gathered", "valid_rows": "valid", "group_index": "owned", "offsets": "offsets"}
"""Arguments that select rows, and which of ``ROWS`` in :mod:`cute_gemm.kernels.quantize.by_rows` does so."""

_INDEXES = {each.index.name: each.index for each in (MASKED, CONTIGUOUS, OFFSETS) if each.index is not None}
_ALIGNMENT = Count("alignment", MAX_ALIGNMENT)


@dataclass(frozen=True)
class Selection:
    """What a call says of rows.

    Args:
        name: of the argument, by :data:`KINDS`; empty for all rows.
        index: the argument.
        alignment: of groups by ``offsets``.
    """

    name: str = ""
    index: Any = None
    alignment: int = 1

    @staticmethod
    def of(rows: Any, valid_rows: Any, group_index: Any, offsets: Any, alignment: Any) -> Selection:
        """From all arguments that may say something.

        Raises:
            ValueError: several do.
        """
        every = zip(KINDS, (rows, valid_rows, group_index, offsets), strict=True)
        given = [(name, value) for name, value in every if value is not None]
        if len(given) > 1:
            names = " and ".join(name for name, _ in given)
            raise ValueError(f"{names} are given; wanted at most one of them, which says what rows there are")
        return Selection(*given[0], alignment) if given else Selection(alignment=alignment)

    @property
    def kind(self) -> str:
        """As kernels call it."""
        return KINDS.get(self.name, "all")

    @property
    def is_empty(self) -> bool:
        """Whether no row is selected, whatever rows there are: so there are no groups, or no results."""
        return self.index is not None and not self.index.numel()

    @property
    def read(self) -> dict[str, Tensor]:
        """The argument by its name, if there is one."""
        return {self.name: self.index} if self.name else {}

    def check(self, x: Tensor, has_memory: bool) -> None:
        """Sees to it that it fits a source ``x``; what is not there yet is not judged by its memory.

        Raises:
            TypeError, ValueError: it does not.
        """
        grouping.require_count(_ALIGNMENT, self.alignment)
        if not self.name:
            return
        memory.require_own_memory(self.name, self.index, has_memory)
        wanted = 3 if self.kind == "valid" else 2
        if x.dim() != wanted:
            shape = "[G, capacity, K]" if wanted == 3 else "[M, K]"
            raise ValueError(f"x has shape {tuple(x.shape)}; wanted {shape}, as {self.name} is given")
        if self.kind == "gathered":
            _require_row_numbers(self.index, has_memory)
        elif self.kind == "offsets":
            groups = self.index.shape[0] if self.index.dim() else 0
            if groups > MAX_GROUPS:
                raise ValueError(
                    f"offsets has shape {tuple(self.index.shape)}; wanted at most {MAX_GROUPS} groups"
                )
            grouping.require_index(_INDEXES["offsets"], self.index, groups, has_memory=has_memory)
        else:
            grouping.require_index(_INDEXES[self.name], self.index, x.shape[0], has_memory=has_memory)
        memory.require_one_device(x=x, **{self.name: self.index})

    def take(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The rows of ``x`` that those of a result are made of, and which are written; None for all."""
        kind, index = self.kind, self.index
        if kind == "all":
            return x, None
        rows = x.shape[-2]
        if kind == "gathered":
            is_one = (index >= 0) & (index < rows)
            if not rows:
                return x.new_zeros(len(index), x.shape[-1]), is_one
            return x[index.clamp(0, rows - 1).long()], is_one
        if kind == "valid":
            return x, torch.arange(rows, device=x.device) < index[:, None]
        if kind == "owned":
            return x, index >= 0
        return x, offsets_row_groups(index, self.alignment, rows, len(index)) >= 0


def quickly(rows: Any, valid_rows: Any, group_index: Any, offsets: Any) -> tuple[str, Any]:
    """The kind of a selection, and its vector, of the arguments that may say it, one of which does.

    Raises:
        TypeError, ValueError, AttributeError: none or several do, or not by a vector.
    """
    if rows is valid_rows is offsets is None:
        kind, index = "owned", group_index
    elif rows is valid_rows is group_index is None:
        kind, index = "offsets", offsets
    elif rows is group_index is offsets is None:
        kind, index = "valid", valid_rows
    elif valid_rows is group_index is offsets is None:
        kind, index = "gathered", rows
    else:
        raise ValueError("several")
    if index.dim() != 1:
        raise ValueError("no vector")
    return kind, index


def _require_row_numbers(rows: Tensor, has_memory: bool) -> None:
    if rows.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"rows has dtype {rows.dtype}; wanted torch.int32 or torch.int64: `rows.long()`")
    if rows.dim() != 1:
        raise ValueError(f"rows has shape {tuple(rows.shape)}; wanted [T]: `rows.flatten()`")
    memory.require_strided("rows", rows, has_memory)
    if not has_memory:
        return
    if rows.numel():
        memory.require_address("rows", rows, rows.element_size())
    if rows.numel() > 1 and rows.stride(0) != 1:
        raise ValueError(
            f"rows has stride {rows.stride(0)}; wanted its elements one behind the other: `rows.contiguous()`"
        )
