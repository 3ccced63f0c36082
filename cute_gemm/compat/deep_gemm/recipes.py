"""What granularity of scales a call says that it has."""

from __future__ import annotations

from collections.abc import Sequence

from ...plan.recipe import FP8_1D2D

_A = (FP8_1D2D.scale_m, FP8_1D2D.scale_k)
_B = (FP8_1D2D.scale_n, FP8_1D2D.scale_k)
_BOTH_BY_ROWS = (_A, _A)


def require_recipe(
    recipe: Sequence[int] | None, recipe_a: Sequence[int] | None, recipe_b: Sequence[int] | None
) -> None:
    """It is 1x128 for A and 128x128 for B, said by `(1, 128, 128)`, by `(1, 128)` and `(128, 128)`, or not.

    Raises:
        ValueError: it is another, or is said by halves, or twice.
        NotImplementedError: it is 1x128 for both.
    """
    if recipe is None and recipe_a is None and recipe_b is None:
        return
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
    if said == (_A, _B):
        return
    if said == _BOTH_BY_ROWS:
        raise NotImplementedError(
            "the recipe says scales for 1x128 of both operands, as for weight gradients (1D1D); cute_gemm "
            "has no such product yet"
        )
    raise ValueError(
        f"the recipe says scales for {said[0]} of A and {said[1]} of B; wanted `recipe=(1, 128, 128)`: for "
        f"{_A} of A and {_B} of B"
    )
