"""FP8 products of groups along K: gradients of experts' weights.

The host knows how large groups are, and the operands of each are a matrix of their own, so each is a dense
product.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ... import m_major
from ...contract import operands, words
from ...plan.limits import K_MULTIPLE, SCALE_STRIDE_MULTIPLE, ceil_div
from ...plan.recipe import FP8_1D1D
from . import process
from .elsewhere import hands_over
from .gradients import Pair, require_result, sum_up
from .recipes import require_recipe

_SCALE_K = FP8_1D1D.scale_k


class Group(NamedTuple):
    """What a group has of K, and of blocks with a scale: `first`, and `last`, which is the next one's."""

    first: int
    last: int
    first_block: int
    last_block: int


@hands_over
def k_grouped_fp8_gemm_nt_contiguous(
    a: Pair,
    b: Pair,
    d: Tensor,
    ks_cpu: Sequence[int] | None,
    grouped_layout: Tensor,
    c: Tensor | None = None,
    recipe: Sequence[int] = (1, 1, 128),
    compiled_dims: str = "mn",
    use_psum_layout: bool = False,
) -> None:
    """For each group `D[g] = A_g @ B_g.T`, or `C[g] + A_g @ B_g.T`, of operands that lie end to end.

    Args:
        a, b: pairs of e4m3, and FP32 scales. The first is contiguous, `[M, K_g]`, or `[N, K_g]`, of each
            group behind that of the one before. Scales are `[M, sum of K_g / 128]`, or `[N, ...]`, of any
            strides; the transpose of a contiguous matrix is not copied, if M and N are multiples of 4.
        d: where to write, FP32 `[G, M, N]`.
        ks_cpu: K of each group, a multiple of 128. It may be 0.
        grouped_layout: int32 `[G]`, the same on the device; it is not read.
        c: what is added, FP32 of the shape of `d`; it may be `d`. With None, a group of no K becomes zero.
        recipe: `(1, 1, 128)`.
        compiled_dims: of no meaning here.
        use_psum_layout: False.

    Raises:
        NotImplementedError: `use_psum_layout`.
        TypeError, ValueError, RuntimeError: as :func:`cute_gemm.fp8_gemm_nt`, which calls `d` `out`; or an
            argument is not of these groups.
    """
    groups = _groups(d, c, ks_cpu, grouped_layout, recipe, use_psum_layout, _SCALE_K)
    _multiply(_end_to_end, a, b, d, c, groups)


@hands_over
def k_grouped_fp8_gemm_tn_contiguous(
    a: Pair,
    b: Pair,
    d: Tensor,
    ks_cpu: Sequence[int] | None,
    grouped_layout: Tensor,
    c: Tensor | None = None,
    recipe: Sequence[int] = (1, 1, 128),
    compiled_dims: str = "mn",
    use_psum_layout: bool = False,
) -> None:
    """As :func:`k_grouped_fp8_gemm_nt_contiguous`, of tokens: A is `[sum of K_g, M]`, B `[sum of K_g, N]`.

    DeepGEMM has it for Blackwell alone. Tensor cores of Hopper want K contiguous: both are transposed first.

    Args:
        a, b: pairs of e4m3 of these shapes, any strides, and FP32 scales `[sum of K_g / 128, M]`, or `[...,
            N]`, where a last block of a group may be shorter.
        d, grouped_layout, c, recipe, compiled_dims, use_psum_layout: as there.
        ks_cpu: K of each group, a multiple of 16 and of :func:`get_mk_alignment_for_contiguous_layout`.

    Raises:
        NotImplementedError, TypeError, ValueError, RuntimeError: as there.
    """
    alignment = math.lcm(process.get_mk_alignment_for_contiguous_layout(), K_MULTIPLE)
    groups = _groups(d, c, ks_cpu, grouped_layout, recipe, use_psum_layout, alignment)
    _multiply(_of_tokens, a, b, d, c, groups)


def _groups(
    d: Tensor,
    c: Tensor | None,
    ks_cpu: Sequence[int] | None,
    grouped_layout: Tensor,
    recipe: Sequence[int],
    use_psum_layout: bool,
    alignment: int,
) -> list[Group]:
    """Those that the arguments beside operands tell of.

    Raises:
        NotImplementedError, TypeError, ValueError: they tell of none, or not of the same.
    """
    if require_recipe(recipe, None, None) is not FP8_1D1D:
        raise ValueError(f"recipe is {recipe!r}; wanted (1, 1, {_SCALE_K})")
    if use_psum_layout:
        raise NotImplementedError(
            "use_psum_layout=True: cute_gemm has no layouts of groups along K that the host does not know"
        )
    require_result(d, c)
    ks = [operator.index(k) for k in ks_cpu or ()]
    if not ks or any(k < 0 or k % alignment for k in ks):
        raise ValueError(f"ks_cpu is {ks_cpu}; wanted a multiple of {alignment} for each group, or 0")
    if d.dim() != 3 or len(d) != len(ks):
        raise ValueError(f"d has shape {tuple(d.shape)}; wanted [{len(ks)}, M, N], by ks_cpu")
    if not isinstance(grouped_layout, Tensor) or grouped_layout.dtype is not torch.int32:
        is_tensor = isinstance(grouped_layout, Tensor)
        was = (words.sketch if is_tensor else words.kind)(grouped_layout)
        raise TypeError(f"grouped_layout is {was}; wanted what ks_cpu says, as torch.int32")
    if grouped_layout.numel() != len(ks):
        raise ValueError(f"grouped_layout has shape {tuple(grouped_layout.shape)}; wanted [{len(ks)}]")
    groups = [Group(0, 0, 0, 0)]
    for k in ks:
        _, first, _, block = groups[-1]
        groups.append(Group(first, first + k, block, block + ceil_div(k, _SCALE_K)))
    return groups[1:]


def _multiply(
    views: Callable[[str, Pair, int, list[Group]], list[Pair]],
    a: Pair,
    b: Pair,
    d: Tensor,
    c: Tensor | None,
    groups: list[Group],
) -> None:
    """The product of each group, of what a function makes of operands: `[rows, K_g]` and scales."""
    of_a, of_b = operands.roles(FP8_1D1D)
    lhs = views("a", operands.unpack(of_a, a), d.shape[1], groups)
    rhs = views("b", operands.unpack(of_b, b), d.shape[2], groups)
    sum_up(zip(lhs, rhs, d.unbind(), strict=True), d, c)


def _end_to_end(name: str, pair: Pair, rows: int, groups: list[Group]) -> list[Pair]:
    x, scales = _tensors(name, pair)
    count = rows * groups[-1].last
    if x.numel() != count or not x.is_contiguous():
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, strides {x.stride()}; wanted {count} elements, contiguous, "
            "by ks_cpu and d"
        )
    _require_shape(f"s{name}", scales, (rows, groups[-1].last_block))
    x = x.view(-1)
    matrices = [x[rows * g.first : rows * g.last].view(rows, g.last - g.first) for g in groups]
    return _with_scales(matrices, scales, groups)


def _of_tokens(name: str, pair: Pair, rows: int, groups: list[Group]) -> list[Pair]:
    x, scales = _tensors(name, pair)
    _require_shape(name, x, (groups[-1].last, rows))
    _require_shape(f"s{name}", scales, (groups[-1].last_block, rows))
    turned = x.t().contiguous()
    return _with_scales([turned[:, g.first : g.last] for g in groups], scales.t(), groups)


def _tensors(name: str, pair: Pair) -> Pair:
    for each, x in zip((name, f"s{name}"), pair, strict=True):
        if not isinstance(x, Tensor):
            raise TypeError(f"{each} is {words.kind(x)}; wanted a tensor")
    return pair


def _require_shape(name: str, x: Tensor, wanted: tuple[int, int]) -> None:
    if x.shape != wanted:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; wanted {wanted}, by ks_cpu and d")


def _with_scales(matrices: list[Tensor], scales: Tensor, groups: list[Group]) -> list[Pair]:
    """Each group's scales are columns of all. What TMA cannot load so is copied here once, for all groups."""
    is_loadable = scales.stride(0) == 1 and scales.stride(1) % SCALE_STRIDE_MULTIPLE == 0
    # Another dtype the operation refuses.
    if not is_loadable and scales.dtype is torch.float32:
        scales = m_major(scales.detach())
    return [(x, scales[:, g.first_block : g.last_block]) for x, g in zip(matrices, groups, strict=True)]
