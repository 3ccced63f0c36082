"""The numerics of a product: types of its operands, how they are scaled, and when sums are promoted."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .limits import MAX_EXTENT

WHOLE = MAX_EXTENT
"""As a number of elements that share a scale: all that there are."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How operands are stored and scaled, and how much of K tensor cores sum up before FP32 does.

    Args:
        name: such as ``"fp8_1d2d"``.
        a_dtype, b_dtype: of the operands, by the names of torch.
        scale_m: rows of A that share a scale; :data:`WHOLE` for all, as of the next two.
        scale_n: rows of B, which are columns of D, that share a scale.
        scale_k: elements along K that share a scale, of A and of B.
        promote_k: elements along K that tensor cores sum up before the sum is promoted: scaled, and added to
            an FP32 accumulator in registers.
    """

    name: str
    a_dtype: str
    b_dtype: str
    scale_m: int
    scale_n: int
    scale_k: int
    promote_k: int

    @property
    def scales_columns(self) -> bool:
        """Whether each row of B has a scale for each partial sum that is promoted, as each row of A has."""
        return self.scale_m == self.scale_n == 1 and self.scale_k == self.promote_k


FP8_1D2D = Recipe(
    name="fp8_1d2d",
    a_dtype="float8_e4m3fn",
    b_dtype="float8_e4m3fn",
    scale_m=1,
    scale_n=128,
    scale_k=128,
    promote_k=128,
)
"""A scaled 1x128, B 128x128, promoted every 128 (DeepSeek-V3 technical report, arXiv:2412.19437, 3.3)."""

FP8_1D1D = replace(FP8_1D2D, name="fp8_1d1d", scale_n=1)
"""Both scaled 1x128: what gradients of weights are made of, whose two operands are activations."""

RECIPES = {recipe.name: recipe for recipe in (FP8_1D2D, FP8_1D1D)}

ELEMENT_BYTES = {"float8_e4m3fn": 1}
"""Size of an operand's elements in bytes."""
