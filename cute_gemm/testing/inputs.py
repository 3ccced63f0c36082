"""Quantised operands, normal and adversarial."""

from __future__ import annotations

import torch
from torch import Tensor

from ..plan.limits import ceil_div
from ..plan.recipe import FP8_1D2D as RECIPE
from ..plan.recipe import Recipe
from ..quantize import quantize_1x128, quantize_128x128, scale_blocks

INPUT_KINDS = ("normal", "outliers", "zero_blocks", "wide_scales", "one_row", "one_column")
"""What :func:`make_inputs` and its like can draw."""

Operand = tuple[Tensor, Tensor]

_OUTLIER = 256.0


def make_inputs(
    m: int,
    n: int,
    k: int,
    kind: str = "normal",
    seed: int = 0,
    device: torch.device | str = "cpu",
    recipe: Recipe = RECIPE,
) -> tuple[Operand, Operand]:
    """Quantised operands of ``[m, k] @ [n, k].T``: repeatable, and their product is never all zeros.

    Args:
        m, n, k: the dimensions, each >= 0.
        kind: ``"normal"``: standard normal; the other kinds start from it. ``"outliers"``: one element of
            every block is 256 times larger. ``"zero_blocks"``: half of the blocks are zero.
            ``"wide_scales"``: every block is scaled by a power of two between ``2**-20`` and ``2**20``.
            ``"one_row"``, ``"one_column"``: only one row or only one column of the product is not zero.
        seed: of the random numbers.
        device: where they are drawn; another device draws others.
        recipe: ``cute_gemm.plan.recipe.FP8_1D1D`` scales each row of B, too.

    Returns:
        ``((a, sa), (b, sb))``: ``a`` e4m3 ``[m, k]``, ``sa`` fp32 ``[m, ceil(k/128)]``, ``b`` e4m3
        ``[n, k]``, ``sb`` fp32 ``[ceil(n/128), ceil(k/128)]`` or ``[n, ceil(k/128)]``, all contiguous.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in INPUT_KINDS:
        raise ValueError(f"make_inputs: kind is {kind!r}; want one of {', '.join(INPUT_KINDS)}")
    random = torch.Generator(device=device).manual_seed(seed)
    # Whatever the default dtype: torch draws other numbers in others.
    x, w = (torch.randn(rows, k, generator=random, device=device, dtype=torch.float32) for rows in (m, n))
    if kind == "outliers":
        _plant_outliers(x, 1, random)
        _plant_outliers(w, recipe.scale_n, random)
    elif kind == "zero_blocks":
        # Chequered so that whatever the shape, the first block of row 0 of A and that of B are kept.
        i, j, block = (
            torch.arange(count, device=device) for count in (m, ceil_div(n, recipe.scale_n), scale_blocks(k))
        )
        x *= _spread((i[:, None] + block) % 2 == 0, x, 1)
        w *= _spread((j[:, None] + block // 2) % 2 == 0, w, recipe.scale_n)
    elif kind == "wide_scales":
        for operand, height in ((x, recipe.scale_m), (w, recipe.scale_n)):
            shape = (ceil_div(operand.shape[0], height), scale_blocks(k))
            exponents = torch.randint(-20, 21, shape, generator=random, device=device)
            operand *= _spread(torch.exp2(exponents.float()), operand, height)
    elif kind in ("one_row", "one_column"):
        operand = x if kind == "one_row" else w
        rows = torch.arange(operand.shape[0], device=device)
        operand *= (rows == torch.randint(max(len(rows), 1), (), generator=random, device=device))[:, None]
    return quantize_1x128(x), (quantize_1x128 if recipe.scale_n == 1 else quantize_128x128)(w)


def _plant_outliers(x: Tensor, height: int, random: torch.Generator) -> None:
    """Multiply one random element of every block of ``height`` x 128 by `_OUTLIER`."""
    rows, columns = x.shape
    shape = (ceil_div(rows, height), scale_blocks(columns))
    i, j = (torch.arange(count, device=x.device) for count in shape)
    i = i[:, None] * height + torch.randint(height, shape, generator=random, device=x.device)
    j = j * RECIPE.scale_k + torch.randint(RECIPE.scale_k, shape, generator=random, device=x.device)
    i, j = i.clamp(max=rows - 1), j.clamp(max=columns - 1)
    x[i, j] = x[i, j] * _OUTLIER


def _spread(blocks: Tensor, like: Tensor, height: int) -> Tensor:
    """Repeat one value per block of ``height`` x 128 over the elements of ``like``."""
    rows, columns = like.shape
    return blocks.repeat_interleave(height, 0)[:rows].repeat_interleave(RECIPE.scale_k, 1)[:, :columns]
