"""Which kernels sort tokens by expert, and add up what experts made of them. Pure Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from .quantizer import SHORT_NAMES

FEW_CHOICES = 4096
"""Up to which a CTA of few warps looks at all of them."""


@dataclass(frozen=True, slots=True)
class RouteConfig:
    """What a kernel of :mod:`cute_gemm.kernels.moe.route` is compiled for.

    Args:
        index_dtype: of the numbers of experts, ``"int32"`` or ``"int64"``.
        has_weights: whether there are weights, which go along.
        warps: of a CTA.
    """

    index_dtype: str
    has_weights: bool = True
    warps: int = 8

    @staticmethod
    def of(index_dtype: str, has_weights: bool, choices: int) -> RouteConfig:
        """For so many choices of experts."""
        return RouteConfig(index_dtype, has_weights, 8 if choices <= FEW_CHOICES else 32)

    @property
    def name(self) -> str:
        """Such as ``route_int32_weights_8``."""
        return "_".join(
            ["route", self.index_dtype, *(["weights"] if self.has_weights else []), f"{self.warps}"]
        )


@dataclass(frozen=True, slots=True)
class CombineConfig:
    """What a kernel of :mod:`cute_gemm.kernels.moe.combine` is compiled for.

    Args:
        dtype: of rows and sums.
        has_base: whether something is added to each sum.
    """

    dtype: str
    has_base: bool = False

    @property
    def name(self) -> str:
        """Such as ``combine_bf16_base``."""
        return f"combine_{SHORT_NAMES[self.dtype]}{'_base' if self.has_base else ''}"


MoeConfig = RouteConfig | CombineConfig
"""Either."""


def every_moe_config() -> Iterator[MoeConfig]:
    """All that calls may ask for."""
    for index_dtype, has_weights, warps in product(("int32", "int64"), (False, True), (8, 32)):
        yield RouteConfig(index_dtype, has_weights, warps)
    for dtype, has_base in product(SHORT_NAMES, (False, True)):
        yield CombineConfig(dtype, has_base)
