"""Rules on sizes, which torch may not know yet while it traces a call.

Of what is not known nothing is said: Python's `==` of such a size would be a guard, by which code is compiled
anew for each other size. The call that comes with numbers is judged then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def known(condition: Any) -> bool:
    """Whether a condition on sizes, a bool or a `torch.SymBool`, holds for certain."""
    if isinstance(condition, bool):
        return condition
    # It loads sympy, which takes long, and is loaded where there are such conditions.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)


def differ(shape: Sequence[Any], wanted: Sequence[Any]) -> bool:
    """Whether two shapes are not the same for certain."""
    return len(shape) != len(wanted) or any(known(x != y) for x, y in zip(shape, wanted, strict=True))
