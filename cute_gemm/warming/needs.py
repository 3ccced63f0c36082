"""Which kernels calls may take: of shapes, and of a model's layers, up to some number of rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..plan.card import Card
from ..plan.choice import GRADIENTS, choose, reach, rows_of_calls
from ..plan.config import KernelConfig
from ..plan.layouts import DENSE, K_GROUPED, LAYOUTS, OFFSETS, Layout
from ..plan.limits import CONTIGUOUS_ALIGNMENT, K_MULTIPLE, OUT_BYTES, QUANTIZED
from ..plan.models import GATED, NORMED, Layer
from ..plan.moe import CombineConfig, RouteConfig
from ..plan.problem import GemmProblem, why_impossible
from ..plan.quantizer import (
    INTERLEAVE,
    BlockQuantizer,
    BothWaysQuantizer,
    NormQuantizer,
    RowQuantizer,
    passes_for,
)
from ..plan.recipe import FP8_1D1D
from ..quantize.selection import KINDS
from .kernels import Fused, Kernel

MOE = "moe"
"""Beside the names of layouts: the expert layers and MLPs of :mod:`cute_gemm.moe`."""

OPS = (*LAYOUTS, MOE, GRADIENTS)

OPENED, WEIGHTED = (f"cute_gemm.warming.kernels:{name}" for name in ("swiglu_and_quantize", "row_weights"))
"""Where the epilogues of an expert layer's products are."""


@dataclass(frozen=True)
class Calls:
    """What calls have in common.

    Args:
        max_m: the most rows of A of a product; of the masked layout the most that are expected of a group;
            with ``experts_per_token``, and of gradients, the most tokens.
        ops: which operations, by the names of :data:`OPS`.
        cards: the GPU, as it may be described.
        num_sms: multiprocessors that a kernel may use.
        out_dtype: of D.
        batch_invariant: as of :func:`cute_gemm.config`.
        dtype: of what is quantised.
        power_of_two_scales: whether its scales are.
        has_quantizers: whether anything is quantised.
        epilogue: of products, or where it is; None for none.
        narrowing, turn: how many columns of sums it makes one of, and how those alternate.
        experts_per_token: that a token chooses; None where rows are given, not tokens.
    """

    max_m: int
    ops: Collection[str]
    cards: tuple[Card, ...]
    num_sms: int
    out_dtype: str = "bfloat16"
    batch_invariant: bool = False
    dtype: str = "bfloat16"
    power_of_two_scales: bool = False
    has_quantizers: bool = True
    epilogue: Any = None
    narrowing: int = 1
    turn: int = INTERLEAVE
    experts_per_token: int | None = None


Needs = dict[Kernel, list[str]]
"""Kernels, and what needs each, in words."""


def needs(layers: Sequence[Layer], calls: Calls) -> Needs:
    """The kernels that calls of these layers may take, with any strides of scales.

    Raises:
        ValueError: no kernel computes such a product.
    """
    found: Needs = {}
    for kernel, use in _all(layers, calls):
        uses = found.setdefault(kernel, [])
        if use not in uses:
            uses.append(use)
    return found


def _all(layers: Sequence[Layer], calls: Calls) -> Iterator[tuple[Kernel, str]]:
    for layer in layers:
        if why := why_impossible(layer.n, layer.k, layer.groups or 1):
            raise ValueError(f"{_title(layer)}: {why}")
        for layout in _layouts(layer, calls):
            yield from _products(layer, layout, calls)
            if calls.has_quantizers:
                yield from _activations(layer, layout, calls)
        if MOE in calls.ops:
            yield from _fused(layer, calls)
        if GRADIENTS in calls.ops:
            yield from _gradients(layer, calls)
        if calls.has_quantizers:
            weights = BlockQuantizer(calls.dtype, layer.groups is not None, calls.power_of_two_scales)
            yield weights, f"weights of {_title(layer)}"
    if MOE in calls.ops and any(layer.groups for layer in layers):
        yield from _around_experts(layers)


def _layouts(layer: Layer, calls: Calls) -> list[Layout]:
    """In which it is multiplied with."""
    is_grouped = layer.groups is not None
    return [each for each in LAYOUTS.values() if each.name in calls.ops and each.is_grouped == is_grouped]


def _products(
    layer: Layer, layout: Layout, calls: Calls, epilogue: Any = None, **of_epilogue: Any
) -> Iterator[tuple[Kernel, str]]:
    """Its products, with the epilogue of all calls or another one."""
    if epilogue is None:
        epilogue = calls.epilogue
        of_epilogue = {"out_dtype": calls.out_dtype, "narrowing": calls.narrowing, "turn": calls.turn}
    problem = GemmProblem(
        1,
        layer.n,
        layer.k,
        num_sms=calls.num_sms,
        layout=layout,
        groups=layer.groups or 1,
        batch_invariant=calls.batch_invariant,
        **of_epilogue,
    )
    ms = rows_of_calls(problem, _most_rows(layer, layout, calls))
    per_call = problem.groups if layout.has_matrix_per_group else 1
    for card in calls.cards:
        for chosen in reach(replace(problem, card=card), ms):
            ends = dict.fromkeys((chosen.least_m // per_call, chosen.most_m // per_call))
            use = f"{layout.name}, {_title(layer)}, M = {' to '.join(map(str, ends))}"
            yield Fused(chosen.config, epilogue) if epilogue is not None else chosen.config, use


def _most_rows(layer: Layer, layout: Layout, calls: Calls) -> int:
    if not layout.is_grouped or layout.has_matrix_per_group or calls.experts_per_token is None:
        return calls.max_m
    padding = (layer.groups or 1) * (CONTIGUOUS_ALIGNMENT - 1) if layout.has_padding else 0
    return calls.max_m * calls.experts_per_token + padding


def _activations(layer: Layer, layout: Layout, calls: Calls) -> Iterator[tuple[Kernel, str]]:
    """What quantises a layer's input: rows, what an activation makes of them, or what a norm does."""
    what, pow2 = f"input of {_title(layer)}", calls.power_of_two_scales
    rows = "all" if layout.index is None else KINDS[layout.index.name]
    has_matrices = layout.has_matrix_per_group
    selections = [(rows, has_matrices)]
    if layout is DENSE:
        # Of x [B, S, K].
        selections.append(("all", True))
    most = _most_rows(layer, layout, calls) * ((layer.groups or 1) if has_matrices else 1)
    for rows, has_matrices in selections:
        for source in ("plain", "swiglu") if layer.behind == GATED else ("plain",):
            width = layer.k * (1 if source == "plain" else 2)
            for passes in dict.fromkeys((passes_for(width), passes_for(width * most))):
                config = RowQuantizer(calls.dtype, has_matrices, source, rows, "int32", pow2, passes)
                yield config, what
        if layer.behind == NORMED and layout is DENSE:
            for has_residual in (False, True):
                features = {"has_matrices": has_matrices, "has_residual": has_residual}
                normed = NormQuantizer.of(calls.dtype, layer.k, is_power_of_two=pow2, **features)
                if normed is not None:
                    yield normed, what


def _fused(layer: Layer, calls: Calls) -> Iterator[tuple[Kernel, str]]:
    """The products of :mod:`cute_gemm.moe`, of an MLP's layers alone; and what quantises its input."""
    is_up, is_down = layer.name.endswith("gate_up_proj"), layer.name.endswith("down_proj")
    if not is_up and not is_down:
        return
    layouts = [each for each in _layouts(layer, calls) if each.is_grouped] or [OFFSETS]
    for layout in layouts if layer.groups else [DENSE]:
        if is_up:
            of_epilogue = {"out_dtype": QUANTIZED, "narrowing": 2}
            yield from _products(layer, layout, calls, OPENED, **of_epilogue)
        elif layout.is_grouped:
            yield from _products(layer, layout, calls, WEIGHTED)
        else:
            yield from _products(layer, layout, calls)
    if is_up and calls.has_quantizers:
        rows = "gathered" if layer.groups else "all"
        for passes in dict.fromkeys((passes_for(layer.k), passes_for(layer.k * calls.max_m))):
            config = RowQuantizer(calls.dtype, rows=rows, passes=passes)
            yield config, f"input of {_title(layer)}"


def _gradients(layer: Layer, calls: Calls) -> Iterator[tuple[Kernel, str]]:
    """The products that make gradients of its weight, FP32 ones written and added; and their quantiser.

    They sum over tokens, so K differs from call to call, and M and N do not.
    """
    layout, groups = (K_GROUPED, layer.groups) if layer.groups else (DENSE, 1)
    tokens = calls.max_m
    if layer.groups and calls.experts_per_token is not None:
        tokens = tokens * calls.experts_per_token + layer.groups * (K_MULTIPLE - 1)
    most = max(tokens // K_MULTIPLE, 1) * K_MULTIPLE
    found: dict[KernelConfig, tuple[int, int]] = {}
    for out_dtype, accumulate in ((calls.out_dtype, False), ("float32", False), ("float32", True)):
        if out_dtype not in OUT_BYTES:
            continue
        for card in calls.cards:
            problem = GemmProblem(
                layer.n,
                layer.k,
                K_MULTIPLE,
                out_dtype,
                calls.num_sms,
                layout,
                groups,
                calls.batch_invariant,
                FP8_1D1D,
                accumulate=accumulate,
                card=card,
            )
            for k in range(K_MULTIPLE, most + 1, K_MULTIPLE):
                config = choose(replace(problem, k=k), tma_scales=True)
                least, last = found.get(config, (k, k))
                found[config] = min(least, k), max(last, k)
    for config, ends in found.items():
        over = " to ".join(map(str, dict.fromkeys(ends)))
        yield config, f"gradient of {_title(layer)}, over {over} tokens"
    if calls.has_quantizers:
        rows = "offsets" if layer.groups else "all"
        quantizer = BothWaysQuantizer(calls.dtype, is_power_of_two=calls.power_of_two_scales, rows=rows)
        yield quantizer, f"gradient of {_title(layer)}"
        weights = BlockQuantizer(
            calls.dtype, bool(layer.groups), calls.power_of_two_scales, is_transposed=True
        )
        yield weights, f"weights of {_title(layer)}, transposed"


def _around_experts(layers: Iterable[Layer]) -> Iterator[tuple[Kernel, str]]:
    for index_dtype in ("int32", "int64"):
        for warps in (8, 32):
            yield RouteConfig(index_dtype, warps=warps), "routing"
    for has_base in (False, True):
        yield CombineConfig("bfloat16", has_base), "sums over experts"


def _title(layer: Layer) -> str:
    groups = f"{layer.groups} x " if layer.groups else ""
    shape = f"{groups}N = {layer.n}, K = {layer.k}"
    return f"{layer.name} ({shape})" if layer.name else shape
