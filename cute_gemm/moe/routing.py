"""Which rows are whose: choices of experts, sorted."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contract import ambient, memory, quantizing, sizes, words
from ..plan.limits import MAX_GROUPS
from ..plan.moe import FEW_CHOICES, RouteConfig
from ..quantize import library
from ..runtime import moe_builder as _  # noqa: F401  (builds what is launched here)
from ..runtime import quantizers

_INDEX_DTYPES = torch.int32, torch.int64


class Routing(NamedTuple):
    """Choices of experts, sorted by expert, and those of one expert by token.

    Args:
        tokens: int32 ``[T * k]``: the token of each row, -1 behind the last row that there is.
        places: int32 ``[T, k]``: the row of each choice, -1 of an expert that is not here.
        ends: int32 ``[E]``: the row behind the last of each expert; the ``offsets`` of products of groups.
        weights: fp32 ``[T * k]``: the weight of each row, 0 behind the last; None if none were given.
    """

    tokens: Tensor
    places: Tensor
    ends: Tensor
    weights: Tensor | None


def route(
    expert_ids: Tensor, experts: int, weights: Tensor | None = None, *, first_expert: int = 0
) -> Routing:
    """Sort tokens by expert: a stable counting sort, in one kernel on a Hopper GPU.

    The host waits for nothing, so a call may be captured into a CUDA graph once it ran before. The same
    choices are always sorted alike.

    Args:
        expert_ids: int32 or int64 ``[T, k]``, contiguous: the experts that each of T tokens has chosen. What
            is no expert that is here, such as -1, has no row.
        experts: how many are here, 1 to 1022.
        weights: fp32 ``[T, k]``, contiguous: what the result of each choice is multiplied with.
        first_expert: the number of the first of them, where experts are spread over devices.

    Returns:
        A :class:`Routing`.

    Raises:
        TypeError: an argument is of another kind or dtype.
        ValueError: a tensor has another shape, is not contiguous or on another device, or a derivative is
            wanted: pass ``weights.detach()``.
        RuntimeError: a CUDA graph is being captured, and the kernel did not run before on this device.
    """
    if library.is_needed(expert_ids):
        return _as_routing(_ROUTE(expert_ids, weights, experts, first_expert), weights is not None)
    return _as_routing(_routed(expert_ids, weights, experts, first_expert), weights is not None)


def _as_routing(found: tuple[Tensor, ...] | list[Tensor], has_weights: bool) -> Routing:
    tokens, places, ends, weights = found
    return Routing(tokens, places, ends, weights if has_weights else None)


def _routed(
    expert_ids: Tensor, weights: Tensor | None, experts: int, first_expert: int
) -> tuple[Tensor, ...]:
    """What the op computes; without weights there are none of rows, either."""
    _require(expert_ids, experts, weights, first_expert)
    results = _new(expert_ids, weights, experts)
    tokens, places, ends, of_rows = results
    written = (tokens, places.view(-1), ends, *((of_rows,) if weights is not None else ()))
    if not _launched(expert_ids, weights, first_expert, written):
        with torch.inference_mode(), ambient.no_autocast(expert_ids.device):
            _in_torch(expert_ids, weights, first_expert, results)
    return results


def _new(expert_ids: Tensor, weights: Tensor | None, experts: int) -> tuple[Tensor, ...]:
    choices = expert_ids.shape[0] * expert_ids.shape[1]
    shapes = (choices,), tuple(expert_ids.shape), (experts,)
    rows = choices if weights is not None else 0
    return (
        *(expert_ids.new_empty(shape, dtype=torch.int32) for shape in shapes),
        expert_ids.new_empty((rows,), dtype=torch.float32),
    )


def _launched(
    expert_ids: Tensor, weights: Tensor | None, first_expert: int, written: tuple[Tensor, ...]
) -> bool:
    """On a Hopper GPU, if there is anything to sort."""
    choices, has_weights = expert_ids.numel(), weights is not None
    of_choices = () if weights is None else (weights,)
    if not quantizers.is_on_hopper(expert_ids) or not quantizers.are_in_memory(expert_ids, *of_choices):
        return False
    device = expert_ids.get_device()
    key = "route", expert_ids.dtype, has_weights, choices <= FEW_CHOICES, device
    read = (expert_ids.view(-1), *written)
    behind = (*(each.view(-1) for each in of_choices), first_expert, expert_ids.shape[1])
    kernel = quantizers.known(key)
    if kernel is not None and torch.cuda.current_device() == device:
        return quantizers.launch_known(kernel, read, behind)
    config = RouteConfig.of(quantizers.NAMES[expert_ids.dtype], has_weights, choices)
    return quantizers.launch(key, config, device, read, behind)


def _in_torch(
    expert_ids: Tensor, weights: Tensor | None, first_expert: int, results: tuple[Tensor, ...]
) -> None:
    tokens, places, ends, of_rows = results
    experts, per_token = ends.shape[0], max(expert_ids.shape[1], 1)
    chosen = expert_ids.flatten().to(torch.int64) - first_expert
    is_here = (chosen >= 0) & (chosen < experts)
    # Those that are not here come last.
    order = chosen.where(is_here, experts).argsort(stable=True)
    numbers = torch.arange(chosen.numel(), device=chosen.device)
    rows = torch.empty_like(order).scatter_(0, order, numbers)
    is_row = numbers < is_here.sum()
    tokens.copy_((order // per_token).where(is_row, -1))
    places.copy_(rows.where(is_here, -1).view_as(places))
    everyone = torch.arange(experts, device=chosen.device)
    ends.copy_((chosen.where(is_here, experts)[None] <= everyone[:, None]).sum(1))
    if weights is not None:
        of_rows.copy_(weights.flatten()[order].where(is_row, 0.0))


def _require(
    expert_ids: Tensor,
    experts: int,
    weights: Tensor | None,
    first_expert: int,
    has_memory: bool = True,
) -> None:
    for name, number, least, most in (
        ("experts", experts, 1, MAX_GROUPS),
        ("first_expert", first_expert, 0, 2**31 - 1 - MAX_GROUPS),
    ):
        if isinstance(number, bool) or not isinstance(number, (int, torch.SymInt)):
            raise TypeError(f"{name} is {words.kind(number)}; wanted an int")
        if sizes.known(number < least) or sizes.known(number > most):
            raise ValueError(f"{name} is {number}; wanted {least} to {most}")
    memory.require_own_memory("expert_ids", expert_ids, has_memory)
    if expert_ids.dtype not in _INDEX_DTYPES:
        wanted = quantizing.one_of(_INDEX_DTYPES)
        raise TypeError(f"expert_ids has dtype {expert_ids.dtype}; wanted {wanted}")
    if expert_ids.dim() != 2:
        raise ValueError(f"expert_ids has shape {tuple(expert_ids.shape)}; wanted [T, k]")
    _require_plain("expert_ids", expert_ids)
    if weights is None:
        return
    memory.require_own_memory("weights", weights, has_memory)
    if weights.dtype is not torch.float32:
        raise TypeError(f"weights has dtype {weights.dtype}; wanted torch.float32: `weights.float()`")
    if sizes.differ(weights.shape, expert_ids.shape):
        wanted = f"wanted that of expert_ids, {tuple(expert_ids.shape)}"
        raise ValueError(f"weights has shape {tuple(weights.shape)}; {wanted}")
    memory.require_one_device(expert_ids=expert_ids, weights=weights)
    _require_plain("weights", weights)


def _require_plain(name: str, x: Tensor) -> None:
    quantizing.require_values(**{name: x})
    if not x.is_contiguous():
        raise ValueError(f"{name} has strides {x.stride()}; wanted contiguous: `{name}.contiguous()`")


def _describe(expert_ids: Tensor, weights: Tensor | None, experts: int, first_expert: int) -> Any:
    _require(expert_ids, experts, weights, first_expert, has_memory=False)
    return _new(expert_ids, weights, experts)


_ROUTE = library.register(
    "route_tokens(Tensor expert_ids, Tensor? weights, SymInt experts, SymInt first_expert) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _routed,
    _describe,
)
