"""What is to be measured: the shapes of each suite, and which operations share operands."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..measure.choices import LayerShape
from ..measure.errors import CommandError
from ..measure.quantizing import kernel_of
from ..measure.records import (
    CHAIN,
    COLD,
    DENSE,
    DENSE_GRADIENTS,
    EXPERT_LAYER,
    GRADIENTS,
    GROUPED,
    LAYERS,
    QUANTIZERS,
)
from ..measure.shapes import Shape, shape_text
from ..measure.work import draw_columns
from ..plan.limits import K_MULTIPLE, MAX_EXTENT
from ..plan.problem import why_impossible
from .published import peer_shapes
from .results import PEER_OPS

QUANTIZE = "quantize"
MOE = "moe"
OF_WEIGHTS = "gradients"
SUITES = "dense", "grouped", QUANTIZE, MOE, OF_WEIGHTS

# Rows of K elements: hidden and expert sizes of DeepSeek-V3 (7168, 2048) and of Qwen3-MoE models (4096 and
# 1536; 2048 and 768).
_QUANTIZED_M = 1, 16, 128, 1024, 4096, 16384
_QUANTIZED_K = 7168, 4096, 2048, 1536, 768

FEW_ROWS = 128
"""Up to which a quantiser is timed in a chain, too: what it reads is in L2, and its launch is most of it.
Of tokens, up to which an expert layer is."""

_LAYER_TOKENS = 1, 4, 16, 64, 128, 1024, 4096, 16384
# Experts here and everywhere, those of a token, K, I: of DeepSeek-V3 on one of eight devices, and of
# Qwen3-30B-A3B on one.
_LAYER_MODELS = (32, 256, 8, 7168, 2048), (128, 128, 8, 2048, 768)

# M and N of a weight, K tokens; of groups, about as many each. Those are the shapes of DeepGEMM's tests.
_GRADIENT_SHAPES: tuple[Shape, ...] = (
    (2112, 4096, 7168),
    (24576, 4096, 1536),
    (32768, 4096, 512),
    (7168, 4096, 16384),
    (4096, 4096, 7168),
    (7168, 4096, 2048),
    (4, 4096, 7168, 8192),
    (4, 7168, 2048, 8192),
    (8, 4096, 7168, 4096),
    (8, 7168, 2048, 4096),
    (16, 4096, 7168, 2048),
    (16, 7168, 2048, 2048),
)

PRODUCT, QUANTIZER, LAYER, GRADIENT = KINDS = "product", "quantizer", "layer", "gradient"
"""What a trial may be of."""


@dataclass(frozen=True)
class Trial:
    """One shape in one regime, and the operations that are timed together at it."""

    suite: str
    regime: str
    ops: tuple[str, ...]
    shape: Shape

    @property
    def kind(self) -> str:
        """Of `KINDS`."""
        kinds = {QUANTIZER: QUANTIZERS, LAYER: LAYERS, GRADIENT: GRADIENTS}
        return next((kind for kind, ops in kinds.items() if self.ops[0] in ops), PRODUCT)

    @property
    def is_of_quantizers(self) -> bool:
        return self.kind == QUANTIZER

    @property
    def is_of_layers(self) -> bool:
        return self.kind == LAYER

    @property
    def is_of_gradients(self) -> bool:
        return self.kind == GRADIENT

    @property
    def title(self) -> str:
        return f"{self.regime} {shape_text(self.shape)}"

    @property
    def full_title(self) -> str:
        """The same, and where a shape has several trials, which one."""
        has_several = self.is_of_quantizers or self.is_of_gradients
        return f"{self.title} {self.ops[0]}" if has_several else self.title


def plan(
    suites: Sequence[str],
    regimes: Sequence[str],
    ops: Sequence[str] = (*GROUPED, *QUANTIZERS, *GRADIENTS),
    shapes: Sequence[Shape] | None = None,
) -> list[Trial]:
    """The trials of a run, those of one suite and regime together.

    Args:
        suites: of `SUITES`.
        regimes: of `records.ALL_REGIMES`. A quantiser has no sustained one: it moves bytes, and is far from
            the power limit. Nor has an expert layer: its stages are timed cold, or in a chain. Gradients of
            weights have no chain: training steps do not wait for launches.
        ops: which grouped operations, which quantisers and which gradients.
        shapes: ``(m, n, k)``, ``(groups, expected_m, n, k)``, of quantisers ``(m, k)``, of expert layers
            those of :class:`..measure.choices.LayerShape`, and where gradients are the only suite, of those
            ``(m, n, k)`` and ``(groups, m, n, expected_k)``; None for those of the peers' figures, of models,
            and of DeepGEMM's tests.

    Raises:
        CommandError: a shape that no operation takes, or no trials at all.
    """
    # What is asked for twice is one thing, and would be refused where two rows are of it.
    ops, shapes = tuple(dict.fromkeys(ops)), shapes and list(dict.fromkeys(shapes))
    for shape in shapes or ():
        _check(shape)
    if shapes and len(suites) > 1:
        # They would be taken for those of forward products, too.
        suites = [suite for suite in suites if suite != OF_WEIGHTS]
    trials = [
        trial for suite in suites for regime in regimes for trial in _trials(suite, regime, ops, shapes)
    ]
    if not trials:
        given = f"the shapes {', '.join(map(shape_text, shapes))}" if shapes else "the shapes"
        raise CommandError(
            f"nothing to measure: none of {given} is of the suite {' or '.join(suites)}"
            f" ({', '.join(regimes)}); dense shapes are MxNxK, grouped ones GxMxNxK, quantisers' MxK,"
            f" expert layers' TxExAxCxKxI; these two are timed {COLD}, and with at most {FEW_ROWS} rows"
            f" in a {CHAIN}; gradients' are MxNxK or GxMxNxK, with no other suite, and not in a {CHAIN}"
        )
    return trials


def _trials(suite: str, regime: str, ops: Sequence[str], shapes: Sequence[Shape] | None) -> Iterator[Trial]:
    if suite == QUANTIZE:
        return _quantizing(regime, ops, shapes)
    if suite == MOE:
        return _layers(regime, shapes)
    if suite == OF_WEIGHTS:
        return _gradients(regime, ops, shapes)
    return _dense(regime, shapes) if suite == "dense" else _grouped(regime, ops, shapes)


def _check(shape: Shape) -> None:
    if why := "numbers start at 1" if min(shape) < 1 else _why_not(shape):
        raise CommandError(f"{shape_text(shape)}: {why}")


def _why_not(shape: Shape) -> str | None:
    if _is_of_layer(shape):
        return _why_no_layer(LayerShape(*shape))
    if len(shape) == 2:
        rows, why = shape[0], _why_not_quantized(shape[1])
    else:
        *groups, _, n, k = shape
        rows, why = math.prod(shape[:-2]), why_impossible(n, k, *groups)
    return why or (f"more than {MAX_EXTENT} rows" if rows > MAX_EXTENT else None)


def _is_of_layer(shape: Shape) -> bool:
    return len(shape) == len(LayerShape._fields)


def _why_no_layer(sizes: LayerShape) -> str:
    return (
        sizes.why_impossible
        or why_impossible(2 * sizes.inner, sizes.k, sizes.experts)
        or why_impossible(sizes.k, sizes.inner, sizes.experts)
    )


def _why_not_quantized(k: int) -> str | None:
    return f"K = {k} is not a positive multiple of {K_MULTIPLE}" if k % K_MULTIPLE else None


def _dense(regime: str, shapes: Sequence[Shape] | None) -> Iterator[Trial]:
    chosen = peer_shapes(regime) if shapes is None else [shape for shape in shapes if len(shape) == 3]
    for shape in chosen:
        yield Trial("dense", regime, (DENSE,), shape)


def _grouped(regime: str, ops: Sequence[str], shapes: Sequence[Shape] | None) -> Iterator[Trial]:
    shared: dict[tuple[str, Shape], tuple[str, ...]] = {}
    for op in (op for op in ops if op in GROUPED):
        chosen = peer_shapes(regime, op) if shapes is None else [shape for shape in shapes if len(shape) == 4]
        for shape in chosen:
            key = PEER_OPS[op], shape
            shared[key] = (*shared.get(key, ()), op)
    for (_, shape), timed in shared.items():
        yield Trial("grouped", regime, timed, shape)


def _quantizing(regime: str, ops: Sequence[str], shapes: Sequence[Shape] | None) -> Iterator[Trial]:
    """A trial for each form that has a kernel: operands of all together would take more memory."""
    of_models = [(m, k) for k, m in itertools.product(_QUANTIZED_K, _QUANTIZED_M)]
    chosen = of_models if shapes is None else [shape for shape in shapes if len(shape) == 2]
    for shape in chosen:
        if regime == COLD or (regime == CHAIN and shape[0] <= FEW_ROWS):
            for op in (op for op in ops if op in QUANTIZERS and kernel_of(op, shape)):
                yield Trial(QUANTIZE, regime, (op,), shape)


def _layers(regime: str, shapes: Sequence[Shape] | None) -> Iterator[Trial]:
    """Of models, few tokens in a chain, as a server decodes them, and many cold."""
    of_models = [
        LayerShape(tokens, *model)
        for model in _LAYER_MODELS
        for tokens in _LAYER_TOKENS
        if regime == (CHAIN if tokens <= FEW_ROWS else COLD)
    ]
    given = [LayerShape(*shape) for shape in shapes or () if _is_of_layer(shape)]
    for shape in of_models if shapes is None else given:
        if regime == COLD or (regime == CHAIN and shape.tokens <= FEW_ROWS):
            yield Trial(MOE, regime, (EXPERT_LAYER,), tuple(shape))


def _gradients(regime: str, ops: Sequence[str], shapes: Sequence[Shape] | None) -> Iterator[Trial]:
    """A trial for each form: operands and results of all together would take more memory."""
    for shape in _GRADIENT_SHAPES if shapes is None else shapes:
        if regime == CHAIN or len(shape) not in (3, 4):
            continue
        is_dense = len(shape) == 3
        if not is_dense and sum(draw_columns(shape[0], shape[3])) > MAX_EXTENT:
            raise CommandError(f"{shape_text(shape)}: more than {MAX_EXTENT} columns")
        for op in (op for op in ops if op in GRADIENTS and (op in DENSE_GRADIENTS) == is_dense):
            yield Trial(OF_WEIGHTS, regime, (op,), shape)
