"""What granularity of scales a call says that it has."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...contract import operands
from ...plan.recipe import FP8_1D1D, FP8_1D2D, Recipe

_RECIPES: dict[tuple[tuple[int, ...], ...], Recipe] = {
    tuple((rows, recipe.scale_k) for rows in (recipe.scale_m, recipe.scale_n)): recipe
    for recipe in (FP8_1D2D, FP8_1D1D)
}
"""By the granularities of A and of B."""


def require_recipe(
    recipe: Sequence[int] | None, recipe_a: Sequence[int] | None, recipe_b: Sequence[int] | None
) -> Recipe:
    """The one that is said by `(1, 128, 128)`, by `(1, 128)` and `(128, 128)`, or the like; or not, as it is.

    Raises:
        ValueError: it is said by halves, or twice, or is one that there is not.
    """
    if recipe is None and recipe_a is None and recipe_b is None:
        return FP8_1D2D
    if (recipe_a is None) is not (recipe_b is None) or (recipe is None) is (recipe_a is None):
        raise ValueError(
            f"recipe is {recipe!r}, recipe_a {recipe_a!r}, recipe_b {recipe_b!r}; wanted `recipe`, or "
            "`recipe_a` and `recipe_b`, or none of them"
        )
    if recipe_a is not None and recipe_b is not None:
        said = tuple(recipe_a), tuple(recipe_b)
    else:
        of_a, of_b, of_k = recipe or ()
        said = (of_a, of_k), (of_b, of_k)
    if said in _RECIPES:
        return _RECIPES[said]
    raise ValueError(
        f"the recipe says scales for {said[0]} of A and {said[1]} of B; wanted `recipe=(1, 128, 128)` or "
        "`(1, 1, 128)`: for (1, 128) of A, and (128, 128) or (1, 128) of B"
    )


def require_blocks(
    recipe: Sequence[int] | None, recipe_a: Sequence[int] | None, recipe_b: Sequence[int] | None
) -> None:
    """It says scales for 128x128 blocks of B, as all products of groups of rows have them.

    Raises:
        ValueError: as :func:`require_recipe`.
        NotImplementedError: it says scales for 1x128 of both operands.
    """
    if require_recipe(recipe, recipe_a, recipe_b) is FP8_1D1D:
        raise NotImplementedError(
            "the recipe says scales for 1x128 of both operands; cute_gemm has no such products of groups of "
            "rows"
        )


def require_scales(recipe: Recipe, b: tuple[Tensor, Tensor]) -> None:
    """B has scales as a recipe says: the operation goes by their shape, and would take others.

    Raises:
        TypeError, ValueError: it has not.
    """
    if operands.recipe_of(b) is not recipe:
        operands.require_operand(operands.roles(recipe)[1], b, 2)
