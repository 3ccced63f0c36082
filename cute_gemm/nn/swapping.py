"""Models whose linear layers become FP8 in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from ..contract import words
from .linear import FP8Linear, why_not_sizes

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Swapped(NamedTuple):
    """What became of a model's linear layers, by their names."""

    swapped: list[str]
    """Those that are :class:`FP8Linear` now."""

    left: dict[str, str]
    """Those that are what they were, and why."""


def swap_linear(model: nn.Module, filter: Callable[[nn.Linear, str], bool] | None = None) -> Swapped:
    """Replaces each :class:`torch.nn.Linear` in a model by an :class:`FP8Linear` with the same parameters.

    Parameters stay the same objects, so an optimiser may have them already, and so do tied ones. A layer
    that has several names is one layer afterwards. Layers stay as they are whose sizes are no multiples of
    16, that are of a subclass (as in ``nn.MultiheadAttention``, which does not call them), or that have
    hooks, which would be lost.

    Args:
        model: it is changed. It is no linear layer itself.
        filter: takes a layer and its name, such as ``"blocks.0.mlp.up"``, and says whether to replace it;
            None for all. Models usually leave the last layer, whose outputs are logits.

    Returns:
        The names of layers that were replaced, and of those that were left, with the reason.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: ``model`` is a linear layer itself, which cannot be replaced in place.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {words.kind(model)}; wanted a torch.nn.Module")
    if isinstance(model, nn.Linear):
        raise ValueError(
            "model is a linear layer itself, which cannot be replaced in place; wanted "
            "`FP8Linear.from_linear(model)`"
        )
    result = Swapped([], {})
    made: dict[nn.Module, FP8Linear] = {}
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(layer, nn.Linear) or isinstance(layer, FP8Linear):
            continue
        if layer not in made:
            why = _why_left(layer, name, filter)
            if why:
                result.left[name] = why
                continue
            made[layer] = FP8Linear.from_linear(layer)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, made[layer])
        result.swapped.append(name)
    return result


def _why_left(layer: nn.Linear, name: str, filter: Callable[[nn.Linear, str], bool] | None) -> str:
    """Why a layer is left as it is; empty where it is replaced."""
    if type(layer) is not nn.Linear:
        return f"it is {words.kind(layer)}, a subclass of torch.nn.Linear"
    if filter is not None and not filter(layer, name):
        return "the filter says so"
    if any(getattr(layer, hooks) for hooks in _HOOKS):
        return "it has hooks, which would be lost"
    return why_not_sizes(layer.in_features, layer.out_features)
