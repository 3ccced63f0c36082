"""Scaling: how scales are loaded, handed to the threads that use them, and applied to sums.

One object does all of it, so that its parts cannot disagree; the rest of a kernel asks it and nothing else.
Without scales, or with another granularity, it is another object: see :class:`base.Scaling`.
"""

from ...plan.config import KernelConfig
from .base import Scaling
from .columns import ScaleColumns
from .loaded import LoadedScaling
from .promotion import StraddlingPromotion, UniformPromotion
from .scaling_1d1d import Scaling1D1D
from .scaling_1d2d import Scaling1D2D
from .staged import StagedScaling

__all__ = [
    "LoadedScaling",
    "Scaling",
    "Scaling1D1D",
    "Scaling1D2D",
    "StagedScaling",
    "scaling_1d1d",
    "scaling_1d2d",
    "scaling_of",
]


def scaling_of(config: KernelConfig) -> Scaling:
    """The scaling of a configuration, by its recipe."""
    return scaling_1d1d(config) if config.scales_columns else scaling_1d2d(config)


def scaling_1d1d(config: KernelConfig) -> Scaling1D1D:
    """The scaling of a configuration whose recipe scales rows of A and rows of B, k-block by k-block."""
    recipe = config.recipe
    assert recipe.scales_columns, "each row has scales of its own"
    assert recipe.scale_k == config.block_k, "a k-block has one scale of each row"
    assert config.tma_scales, "they come with the stages"
    tile = config.block_m, config.block_n, config.m_fragments, config.fragment_n
    return Scaling1D1D(*tile, config.stages, multicast=config.cluster_n > 1)


def scaling_1d2d(config: KernelConfig) -> Scaling1D2D:
    """The scaling of a configuration whose recipe scales rows of A and blocks of B, k-block by k-block."""
    recipe = config.recipe
    assert recipe.scale_m == 1, "each row of A has scales of its own"
    assert recipe.scale_k == config.block_k, "a k-block has one scale of each row"
    if config.straddles:
        of_fragment = StraddlingPromotion(config.fragment_n, config.scale_group_n, recipe.scale_n)
    else:
        of_fragment = UniformPromotion(config.fragment_n)
    columns = ScaleColumns(config.block_n, config.fragment_n, recipe.scale_n, of_fragment.num_b)
    common = {
        "block_m": config.block_m,
        "m_fragments": config.m_fragments,
        "columns": columns,
        "of_fragment": of_fragment,
        "fetches_ahead": config.prefetch_scales,
    }
    if config.tma_scales:
        return StagedScaling(**common, stages=config.stages, multicast=config.cluster_n > 1)
    return LoadedScaling(**common)
