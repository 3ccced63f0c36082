"""What is said beside tensors: each rule beside what is said where it is broken."""

from __future__ import annotations

from . import words


def require_flag(name: str, value: object) -> None:
    """It is True or False: of a tensor the host would have to wait for that.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {words.kind(value)}; wanted a bool")


def require_fill(value: object, *, is_quantized: bool) -> None:
    """It is 0, or None.

    Args:
        value: the argument.
        is_quantized: whether the result is e4m3 with scales.

    Raises:
        TypeError: it is something else that is no int; of a tensor the host would have to wait for it.
        ValueError: it is another int; or the result is quantised.
    """
    if value is None:
        return
    wanted = "wanted 0, for zeros in the rows of no group, or None, which leaves these as they are"
    if type(value) is not int:
        raise TypeError(f"fill is {words.kind(value)}; {wanted}")
    if value != 0:
        raise ValueError(f"fill is {value}; {wanted}")
    if is_quantized:
        raise ValueError(
            "fill is 0, but the epilogue quantises, and e4m3 without scales is no number; wanted None: what "
            "reads the result by the same groups never sees other rows"
        )
