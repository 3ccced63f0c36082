"""Linear layers of many experts: tokens sorted by expert, each times the weight of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..contract import grouping
from ..plan.layouts import OFFSETS
from . import grouped_function
from .keeping import Keeping
from .linear import require_input, require_local, why_not_sizes


class FP8GroupedLinear(Keeping, nn.Module):
    """For each group a linear layer without bias, of FP8 products forward and backward, in one launch each.

    Tokens are sorted by group, as ``moe.route`` sorts them, without padding; how many each group has only the
    device knows. Quantised and kept is as of :class:`FP8Linear`; along tokens, blocks of 128 begin at each
    group's first.

    Args:
        groups: how many.
        in_features, out_features: multiples of 16.
        device, dtype: of the weight.

    Attributes:
        weight: ``[groups, out_features, in_features]``; each matrix is drawn as that of ``nn.Linear``.

    Raises:
        ValueError: a size is no multiple of 16, or there are no groups.
    """

    def __init__(
        self,
        groups: int,
        in_features: int,
        out_features: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        why = why_not_sizes(in_features, out_features)
        if why or groups < 1:
            raise ValueError(why or f"groups is {groups}; wanted 1 or more")
        super().__init__()
        self.groups, self.in_features, self.out_features = groups, in_features, out_features
        self.weight = nn.Parameter(torch.empty(groups, out_features, in_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the weight anew."""
        bound = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, input: Tensor, offsets: Tensor) -> Tensor:
        """Each group's rows times its weight.

        Args:
            input: ``[T, in_features]``, bf16, fp16 or fp32; under autocast it is cast as ``nn.Linear`` casts
                it.
            offsets: int32 ``[groups]``: the row behind each group's last, as of
                :func:`cute_gemm.m_grouped_fp8_gemm_nt_offsets`.

        Returns:
            ``[T, out_features]``, of the dtype of the (cast) input. Rows behind the last group are zero, and
            so is their gradient.

        Raises:
            TypeError: an argument is no tensor, or of another dtype; or one, or the weight, is a DTensor.
            ValueError: ``input`` has another number of features, or not two dimensions; or ``offsets`` are
                not as said.
            RuntimeError: in backward, the gradient itself is to be differentiated.
        """
        require_input(input, self.in_features)
        if input.dim() != 2:
            raise ValueError(f"input has shape {tuple(input.shape)}; wanted [T, {self.in_features}]")
        require_local(input=input, weight=self.weight)
        grouping.require_index(OFFSETS.index, offsets, self.groups, has_memory=False)
        return grouped_function.linear(input, self.weight, offsets, self._kept)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"groups={self.groups}, in_features={self.in_features}, out_features={self.out_features}"
