"""FP8 products under DeepGEMM's names: of transposed operands, of groups, and added to another matrix.

Each has the name that most releases of DeepGEMM know it by, as calls are handed over by it.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

from torch import Tensor

from ... import epilogue
from ... import fp8_gemm_nt as _dense
from ... import m_grouped_fp8_gemm_nt_contiguous as _contiguous
from ... import m_grouped_fp8_gemm_nt_masked as _masked
from ... import m_grouped_fp8_gemm_nt_offsets as _offsets
from ...plan.limits import CONTIGUOUS_ALIGNMENT
from ...plan.recipe import FP8_1D1D
from . import process
from .elsewhere import hands_over
from .gradients import Pair, is_same, require_result, sum_up
from .recipes import require_blocks, require_recipe, require_scales

Recipe = Sequence[int] | None


@hands_over
def fp8_gemm_nt(
    a: Pair,
    b: Pair,
    d: Tensor,
    c: Tensor | None = None,
    recipe: Recipe = None,
    recipe_a: Recipe = None,
    recipe_b: Recipe = None,
    compiled_dims: str = "nk",
    disable_ue8m0_cast: bool = False,
) -> None:
    """`D = A @ B.T`, or `C + A @ B.T`, as :func:`cute_gemm.fp8_gemm_nt` computes it.

    Args:
        a, b: pairs of e4m3 `[M, K]`, `[N, K]`, and FP32 scales, which are used as they are.
        d: where to write, bf16 or FP32 `[M, N]`.
        c: what is added, of that shape; it may be `d`. The sum is rounded once.
        recipe, recipe_a, recipe_b: what scales are for; `(1, 128, 128)`, or `(1, 128)` and `(128, 128)`. Or
            `(1, 1, 128)`, or `(1, 128)` twice, as of gradients of weights, with FP32 `d` alone.
        compiled_dims, disable_ue8m0_cast: of no meaning here.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`cute_gemm.fp8_gemm_nt`, which calls `d` `out`.
    """
    said = require_recipe(recipe, recipe_a, recipe_b)
    require_scales(said, b)
    if said is FP8_1D1D:
        require_result(d, c)
        sum_up([(a, b, d)], d, c)
    elif c is None:
        process.run(_dense, a, b, out=d)
    elif is_same(c, d):
        process.run(_dense, a, b, out=d, epilogue=epilogue.accumulate())
    else:
        process.run(_dense, a, b, out=d, epilogue=epilogue.residual(c))


def fp8_gemm_nn(
    a: Pair,
    b: Pair,
    d: Tensor,
    c: Tensor | None = None,
    recipe: Recipe = None,
    recipe_a: Recipe = None,
    recipe_b: Recipe = None,
    compiled_dims: str = "nk",
    disable_ue8m0_cast: bool = False,
) -> None:
    """As :func:`fp8_gemm_nt`, of a `b` that is `[K, N]`; in memory K is contiguous all the same."""
    fp8_gemm_nt(a, _turned(b), d, c, recipe, recipe_a, recipe_b, compiled_dims, disable_ue8m0_cast)


def fp8_gemm_tn(
    a: Pair,
    b: Pair,
    d: Tensor,
    c: Tensor | None = None,
    recipe: Recipe = None,
    recipe_a: Recipe = None,
    recipe_b: Recipe = None,
    compiled_dims: str = "mn",
    disable_ue8m0_cast: bool = False,
) -> None:
    """As :func:`fp8_gemm_nt`, of `a` that is `[K, M]` and `b` that is `[K, N]`; in memory K is contiguous."""
    fp8_gemm_nt(_turned(a), _turned(b), d, c, recipe, recipe_a, recipe_b, compiled_dims, disable_ue8m0_cast)


def fp8_gemm_tt(
    a: Pair,
    b: Pair,
    d: Tensor,
    c: Tensor | None = None,
    recipe: Recipe = None,
    recipe_a: Recipe = None,
    recipe_b: Recipe = None,
    compiled_dims: str = "mn",
    disable_ue8m0_cast: bool = False,
) -> None:
    """As :func:`fp8_gemm_nt`, of an `a` that is `[K, M]`; in memory K is contiguous all the same."""
    fp8_gemm_nt(_turned(a), b, d, c, recipe, recipe_a, recipe_b, compiled_dims, disable_ue8m0_cast)


@hands_over
def m_grouped_fp8_gemm_nt_contiguous(
    a: Pair,
    b: Pair,
    d: Tensor,
    grouped_layout: Tensor,
    recipe: Recipe = None,
    recipe_a: Recipe = None,
    recipe_b: Recipe = None,
    compiled_dims: str = "nk",
    disable_ue8m0_cast: bool = False,
    use_psum_layout: bool = False,
    ensure_zero_padding: bool = True,
    expected_m_for_psum_layout: int | None = None,
) -> None:
    """Products of rows of A, in groups one behind the other, with their groups' matrices of B.

    All of `d` is written: rows of padding become zeros, whatever they hold in `a`. M need not be a multiple
    of 128. With `use_psum_layout` rows of no group are left as they are, as on Hopper there.

    Args:
        a, b, d, recipe, recipe_a, recipe_b, compiled_dims, disable_ue8m0_cast: as of :func:`fp8_gemm_nt`, but
            for `b`, e4m3 `[G, N, K]`.
        grouped_layout: int32 `[M]`, the group of each row, -1 for padding; each group begins at a multiple of
            128. With `use_psum_layout` int32 `[G]`, the row behind each group's last; a group begins at the
            end of the one before it, rounded up to :func:`get_mk_alignment_for_contiguous_layout`.
        use_psum_layout: which of them it is.
        ensure_zero_padding: of no meaning, as on Hopper there.
        expected_m_for_psum_layout: a hint for which there is no use.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`cute_gemm.m_grouped_fp8_gemm_nt_contiguous` and
            :func:`cute_gemm.m_grouped_fp8_gemm_nt_offsets`.
    """
    require_blocks(recipe, recipe_a, recipe_b)
    alignment = process.get_mk_alignment_for_contiguous_layout()
    if use_psum_layout:
        process.run(_offsets, a, b, grouped_layout, out=d, alignment=alignment)
        return
    if expected_m_for_psum_layout is not None:
        raise ValueError(
            f"expected_m_for_psum_layout is {expected_m_for_psum_layout}, but the layout is none; wanted "
            "`use_psum_layout=True`"
        )
    if alignment % CONTIGUOUS_ALIGNMENT:
        raise ValueError(
            f"set_mk_alignment_for_contiguous_layout({alignment}) is in force; wanted a multiple of "
            f"{CONTIGUOUS_ALIGNMENT}, or `use_psum_layout=True`, which takes any up to 1024"
        )
    process.run(_contiguous, a, b, grouped_layout, out=d, fill=0)


def m_grouped_fp8_gemm_nn_contiguous(
    a: Pair,
    b: Pair,
    d: Tensor,
    grouped_layout: Tensor,
    recipe: Recipe = None,
    recipe_a: Recipe = None,
    recipe_b: Recipe = None,
    compiled_dims: str = "nk",
    disable_ue8m0_cast: bool = False,
    use_psum_layout: bool = False,
    ensure_zero_padding: bool = True,
) -> None:
    """As :func:`m_grouped_fp8_gemm_nt_contiguous`, of `b` that is `[G, K, N]`, K contiguous."""
    m_grouped_fp8_gemm_nt_contiguous(
        a,
        _turned(b),
        d,
        grouped_layout,
        recipe,
        recipe_a,
        recipe_b,
        compiled_dims,
        disable_ue8m0_cast,
        use_psum_layout,
        ensure_zero_padding,
    )


@hands_over
def m_grouped_fp8_gemm_nt_masked(
    a: Pair,
    b: Pair,
    d: Tensor,
    masked_m: Tensor,
    expected_m: int,
    recipe: Recipe = None,
    recipe_a: Recipe = None,
    recipe_b: Recipe = None,
    compiled_dims: str = "nk",
    disable_ue8m0_cast: bool = False,
    *,
    enable_overlap: bool = False,
    max_block_n: int = 256,
    signal: Tensor | None = None,
) -> None:
    """Products of G matrices of the same size, of which the first rows count; others are left as they are.

    Args:
        a, b, d, recipe, recipe_a, recipe_b, compiled_dims, disable_ue8m0_cast: as of :func:`fp8_gemm_nt`, of
            matrices for each group: e4m3 `[G, max_m, K]` and `[G, N, K]`, and `[G, max_m, N]`.
        masked_m: int32, G numbers: the rows of each matrix that count.
        expected_m: about how many that are, a hint.
        max_block_n: a hint of a fork, for which there is no use.
        enable_overlap, signal: of that fork: to say on the device what is ready.

    Raises:
        NotImplementedError: `enable_overlap`.
        TypeError, ValueError, RuntimeError: as :func:`cute_gemm.m_grouped_fp8_gemm_nt_masked`.
    """
    require_blocks(recipe, recipe_a, recipe_b)
    if enable_overlap:
        raise NotImplementedError(
            "enable_overlap=True has a kernel say what is ready while it runs; cute_gemm has no such yet"
        )
    if isinstance(masked_m, Tensor) and masked_m.dim() != 1:
        masked_m = masked_m.flatten()
    process.run(_masked, a, b, masked_m, operator.index(expected_m), out=d)


def _turned(pair: Pair) -> Pair:
    """Both transposed. What is no pair of matrices the operation refuses, in words."""
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
    if is_pair and all(isinstance(each, Tensor) and each.dim() > 1 for each in pair):
        return pair[0].mT, pair[1].mT
    return pair
