"""Layouts of scales, and alignments. On a Hopper GPU products take FP32 scales of any strides.

So nothing here has to be called before a product. Scales that are M-major may be loaded by TMA.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .... import m_major
from ....plan.limits import CONTIGUOUS_ALIGNMENT, TMA_ALIGNMENT, ceil_div
from ....plan.recipe import FP8_1D2D
from ..elsewhere import hands_over
from ..process import (
    get_mk_alignment_for_contiguous_layout,
    get_theoretical_mk_alignment_for_contiguous_layout,
    set_mk_alignment_for_contiguous_layout,
)
from .math import align
from .ue8m0 import PACKED, exponents

__all__ = [
    "get_k_alignment_for_contiguous_layout",
    "get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor",
    "get_m_alignment_for_contiguous_layout",
    "get_mk_alignment_for_contiguous_layout",
    "get_mn_major_tma_aligned_packed_ue8m0_tensor",
    "get_mn_major_tma_aligned_tensor",
    "get_theoretical_mk_alignment_for_contiguous_layout",
    "get_tma_aligned_size",
    "set_mk_alignment_for_contiguous_layout",
    "transform_sf_into_required_layout",
]

get_m_alignment_for_contiguous_layout = get_mk_alignment_for_contiguous_layout
get_k_alignment_for_contiguous_layout = get_mk_alignment_for_contiguous_layout


def get_tma_aligned_size(x: int, element_size: int) -> int:
    """The smallest number of elements not below `x` that takes a multiple of 16 bytes.

    Raises:
        ValueError: elements of this size do not divide 16 bytes.
    """
    if element_size < 1 or TMA_ALIGNMENT % element_size:
        raise ValueError(f"element_size is {element_size}; wanted one that divides {TMA_ALIGNMENT}")
    return align(x, TMA_ALIGNMENT // element_size)


@hands_over
def get_mn_major_tma_aligned_tensor(sf: Tensor) -> Tensor:
    """Scales in the layout that TMA loads: :func:`cute_gemm.m_major` of them, or themselves if they are so.

    Args:
        sf: FP32 `[M, ceil(K / 128)]`, or a matrix of them for each group.
    """
    if sf.dim() in (2, 3) and sf.dtype is torch.float32 and sf.stride() == _m_major_strides(sf.shape):
        return sf
    return m_major(sf.detach())


@hands_over
def get_mn_major_tma_aligned_packed_ue8m0_tensor(sf: Tensor, psum_layout: Tensor | None = None) -> Tensor:
    """The exponents of scales, four along K in an int32, in the layout that TMA loads. It is for Blackwell.

    Args:
        sf: FP32 `[M, K]` or `[G, M, K]` of powers of two, any strides; of others mantissas are dropped.
        psum_layout: of no meaning: rows of no group hold what comes of what they held.

    Returns:
        int32 `[..., M, ceil(K / 4)]`, strides `(..., 1, P)`, P being M rounded up to a multiple of 4.
    """
    padded = torch.nn.functional.pad(exponents(sf), (0, -sf.shape[-1] % PACKED))
    # The words are copied as FP32, bit by bit.
    return m_major(padded.contiguous().view(torch.float32)).view(torch.int32)


@hands_over
def get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor(
    sf: Tensor,
    grouped_layout: Tensor,
    ks_cpu: Sequence[int] | None,
    gran_k: int,
    k_alignment: int = CONTIGUOUS_ALIGNMENT,
    use_psum_layout: bool = False,
) -> Tensor:
    """The exponents of scales of groups along K, four in an int32, no word with those of two groups.

    Args:
        sf: FP32 `[sum of ceil(k / gran_k), M]` of powers of two.
        grouped_layout: of no meaning beside `ks_cpu`.
        ks_cpu: K of each group.
        gran_k: elements of K that share a scale.
        k_alignment: of no meaning, and left away by vLLM.
        use_psum_layout: False; else it is for Blackwell alone.

    Returns:
        int32 `[sum of ceil(k / (4 * gran_k)), M]`, contiguous.

    Raises:
        NotImplementedError: `use_psum_layout`.
        ValueError: K of the groups are not those of `sf`.
    """
    if use_psum_layout or not ks_cpu:
        raise NotImplementedError(
            "use_psum_layout=True: cute_gemm has no layouts of groups along K that the host does not know"
        )
    counts = [ceil_div(k, gran_k) for k in ks_cpu]
    if sf.dim() != 2 or sum(counts) != sf.shape[0]:
        raise ValueError(
            f"sf has shape {tuple(sf.shape)}; wanted [{sum(counts)}, M], by ks_cpu and gran_k = {gran_k}"
        )
    groups = [
        torch.nn.functional.pad(each, (0, 0, 0, -len(each) % PACKED))
        for each in exponents(sf).split(counts)
        if len(each)
    ]
    if not groups:
        return sf.new_empty((0, sf.shape[1]), dtype=torch.int32)
    return torch.cat(groups).unflatten(0, (-1, PACKED)).mT.contiguous().view(torch.int32).squeeze(2)


@hands_over
def transform_sf_into_required_layout(
    sf: Tensor,
    mn: int,
    k: int,
    recipe: Sequence[int],
    num_groups: int | None = None,
    is_sfa: bool | None = None,
    disable_ue8m0_cast: bool = False,
    psum_layout: Tensor | None = None,
) -> Tensor:
    """Scales as products of a Hopper GPU take them best: M-major ones for 1x128, and others as they are.

    Args:
        sf: FP32 `[ceil(mn / gran_mn), ceil(k / 128)]`, or a matrix of them for each group.
        mn, k: extents of what it scales.
        recipe: `(gran_mn, gran_k)`; or three numbers, for `is_sfa` to choose among the first two.
        num_groups: how many matrices there are, if `sf` has three dimensions.
        is_sfa: with a recipe of three, whether it is A.
        disable_ue8m0_cast, psum_layout: of no meaning on Hopper.

    Raises:
        TypeError: another dtype.
        ValueError: a shape or recipe that does not fit.
    """
    if (len(recipe) == 3) is not (is_sfa is not None):
        raise ValueError(f"recipe is {recipe!r}, is_sfa {is_sfa!r}; wanted a bool beside a recipe of three")
    gran_mn, gran_k = recipe if len(recipe) == 2 else (recipe[0 if is_sfa else 1], recipe[2])
    if sf.dtype is not torch.float32:
        raise TypeError(f"sf has dtype {sf.dtype}; wanted torch.float32, as on Hopper")
    granularity = gran_mn, gran_k
    by_rows, by_blocks = ((rows, FP8_1D2D.scale_k) for rows in (FP8_1D2D.scale_m, FP8_1D2D.scale_n))
    if granularity not in (by_rows, by_blocks):
        raise ValueError(f"the recipe says scales for {granularity}; wanted {by_rows} or {by_blocks}")
    groups = () if num_groups is None else (num_groups,)
    wanted = (*groups, ceil_div(mn, gran_mn), ceil_div(k, gran_k))
    if tuple(sf.shape) != wanted:
        raise ValueError(f"sf has shape {tuple(sf.shape)}; wanted {wanted}")
    return get_mn_major_tma_aligned_tensor(sf) if granularity == by_rows else sf


def _m_major_strides(shape: torch.Size) -> tuple[int, ...]:
    *groups, rows, columns = shape
    padded = get_tma_aligned_size(rows, torch.float32.itemsize)
    return (*(columns * padded for _ in groups), 1, padded)
