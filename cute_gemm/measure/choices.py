"""What an expert layer is given to do: its sizes, and which experts its tokens have chosen."""

from __future__ import annotations

import functools
import random
from typing import NamedTuple

from ..plan.limits import MAX_GROUPS, ceil_div
from ..plan.quantizer import BLOCK

MOST_CHOICES = 1 << 21
"""Of all tokens together: the host draws them one by one, also where a row is read back."""

_BF16, _FP32, _INT32 = 2, 4, 4


class LayerShape(NamedTuple):
    """The sizes of an expert layer on one device.

    Args:
        tokens: of all devices that share the layer.
        experts: on this device, the first of all.
        all_experts: of the layer.
        choices: experts that each token has chosen.
        k: columns of a token.
        inner: columns between the two products.
    """

    tokens: int
    experts: int
    all_experts: int
    choices: int
    k: int
    inner: int

    @property
    def why_impossible(self) -> str:
        """Why no device could have such experts and choices, in words; empty if one can."""
        if self.experts > min(self.all_experts, MAX_GROUPS):
            return f"{self.experts} experts, of {self.all_experts}, and at most {MAX_GROUPS} on a device"
        if self.choices > self.all_experts:
            return f"{self.choices} choices of {self.all_experts} experts"
        if self.tokens * self.choices > MOST_CHOICES:
            return f"more than {MOST_CHOICES} choices"
        return ""

    @property
    def rows(self) -> int:
        """Choices of experts that are on this device."""
        return sum(expert < self.experts for chosen in draw_choices(self) for expert in chosen)

    @property
    def experts_in_use(self) -> int:
        """Experts on this device that a token has chosen."""
        return len({expert for chosen in draw_choices(self) for expert in chosen if expert < self.experts})

    @property
    def tokens_in_use(self) -> int:
        """Tokens that have chosen an expert on this device."""
        return sum(min(chosen) < self.experts for chosen in draw_choices(self))

    @property
    def weight_bytes(self) -> int:
        """Of one expert: e4m3 of three matrices, and their scales."""
        k_blocks = ceil_div(self.k, BLOCK)
        scales = ceil_div(2 * self.inner, BLOCK) * k_blocks + k_blocks * ceil_div(self.inner, BLOCK)
        return 3 * self.inner * self.k + _FP32 * scales

    @property
    def flops(self) -> int:
        """Multiplications and additions of both products."""
        return 2 * self.rows * 3 * self.inner * self.k

    @property
    def bytes_moved(self) -> int:
        """Bytes that must come from memory or go there: operands and result, each once.

        Those are weights of experts in use, tokens that have chosen one, choices with their weights, and all
        of the result. What one kernel leaves to the next may stay in L2 and does not count.
        """
        choices = self.tokens * self.choices * (_INT32 + _FP32)
        tokens = _BF16 * self.k * (self.tokens_in_use + self.tokens)
        return self.experts_in_use * self.weight_bytes + choices + tokens


@functools.lru_cache(64)
def draw_choices(shape: LayerShape) -> tuple[tuple[int, ...], ...]:
    """Different experts for each token, all as likely, anew from the same seed for each shape.

    One choice at least is of an expert that is on this device.
    """
    everyone, draw = range(shape.all_experts), random.Random(0)
    drawn = [draw.sample(everyone, shape.choices) for _ in range(shape.tokens)]
    if min(map(min, drawn)) >= shape.experts:
        drawn[0][0] = 0
    return tuple(map(tuple, drawn))
