"""Feed-forward layers in FP8: two products, the second of what the epilogue of the first has quantised."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..contract import memory, sizes, words
from ..epilogue import Epilogue, QuantizingEpilogue, swiglu
from ..epilogue import quantize_1x128 as quantized
from ..epilogue import row_weights as times_weights
from ..ops.dense import fp8_gemm_nt
from ..ops.grouped import (
    m_grouped_fp8_gemm_nt_contiguous,
    m_grouped_fp8_gemm_nt_masked,
    m_grouped_fp8_gemm_nt_offsets,
)
from ..quantize import quantize_1x128
from .combining import combine
from .routing import route

Operand = tuple[Tensor, Tensor]
"""e4m3 values and their scales."""

SWIGLU = swiglu()


def expert_layer(
    x: Tensor,
    gate_up: Operand,
    down: Operand,
    expert_ids: Tensor,
    weights: Tensor,
    *,
    first_expert: int = 0,
    shared: tuple[Operand, Operand] | None = None,
    activation: Epilogue = SWIGLU,
    out: Tensor | None = None,
) -> Tensor:
    """The layer of a mixture of experts: of each token the weighted sum of what its experts make of it.

    Token t becomes the sum over its choices j of ``weights[t, j] * E(x[t])``, where E is expert
    ``expert_ids[t, j]``, ``down @ (silu(gate @ x) * (up @ x))`` (Shazeer, arXiv:2002.05202). Rows are
    sorted by expert as they are, without padding. Nothing depends on what the host knows of the choices, so a
    call may be captured into a CUDA graph once it ran before. The same call always gives the same bits, and
    within ``cute_gemm.config(batch_invariant=True)`` a token's do not depend on what else the batch holds.

    Args:
        x: bf16, fp16 or fp32 ``[T, K]``.
        gate_up: e4m3 ``[E, 2 I, K]`` and scales ``[E, ceil(2 I / 128), ceil(K / 128)]``, as
            :func:`cute_gemm.quantize_128x128` makes them of what :func:`cute_gemm.interleave_gate_up` made.
        down: e4m3 ``[E, N, I]`` and scales ``[E, ceil(N / 128), ceil(I / 128)]``.
        expert_ids: int32 or int64 ``[T, k]``, contiguous. What is no expert that is here, such as -1, adds
            nothing.
        weights: fp32 ``[T, k]``, contiguous.
        first_expert: the number of the first expert that is here.
        shared: gate and up, and down, of experts that see every token: ``[2 I', K]`` and ``[N, I']`` with
            their scales. Their result is added as it is.
        activation: what becomes of gate and up, such as ``epilogue.swiglu(limit=7.0)``, or
            ``epilogue.swiglu(turn=128)`` for weights that were quantised before they were laid out.
        out: bf16 ``[T, N]`` to write; None to allocate.

    Returns:
        bf16 ``[T, N]``, contiguous, or ``out``.

    Raises:
        TypeError: ``gate_up`` is no pair; or ``activation`` makes no column of two, or quantises.
        ValueError: ``x`` has other tokens than ``expert_ids``, or ``gate_up`` no matrix for each expert.
        TypeError, ValueError, RuntimeError: as :func:`route`, :func:`cute_gemm.quantize_1x128`,
            :func:`cute_gemm.m_grouped_fp8_gemm_nt_offsets` and :func:`combine`.
    """
    memory.require_tensor("x", x)
    routing = route(expert_ids, _experts_of(gate_up), weights, first_expert=first_expert)
    if sizes.differ(x.shape[:-1], expert_ids.shape[:1]):
        raise ValueError(
            f"x has shape {tuple(x.shape)}; wanted [{expert_ids.shape[0]}, K], a row for each token of "
            f"expert_ids, which has shape {tuple(expert_ids.shape)}"
        )
    lhs = quantize_1x128(x, rows=routing.tokens)
    rows = experts(
        lhs, gate_up, down, offsets=routing.ends, row_weights=routing.weights, activation=activation
    )
    base = None if shared is None else mlp(x, *shared, activation=activation)
    return combine(rows, routing.places, base=base, out=out)


def experts(
    lhs: Operand,
    gate_up: Operand,
    down: Operand,
    *,
    offsets: Tensor | None = None,
    alignment: int = 1,
    group_index: Tensor | None = None,
    valid_rows: Tensor | None = None,
    expected_rows: int | None = None,
    row_weights: Tensor | None = None,
    activation: Epilogue = SWIGLU,
    out: Tensor | None = None,
) -> Tensor:
    """What experts make of rows that are sorted and quantised already, as a dispatch between devices does it.

    Args:
        lhs: e4m3 ``[M, K]``, or of ``valid_rows`` ``[E, capacity, K]``, and its scales.
        gate_up, down: as of :func:`expert_layer`.
        offsets, alignment: int32 ``[E]``, and an int: as of :func:`cute_gemm.m_grouped_fp8_gemm_nt_offsets`.
        group_index: instead of them: as of :func:`cute_gemm.m_grouped_fp8_gemm_nt_contiguous`.
        valid_rows, expected_rows: instead of them: as of :func:`cute_gemm.m_grouped_fp8_gemm_nt_masked`.
        row_weights: fp32 ``[M]`` or ``[E, capacity]``: what each row's result is multiplied with, if any.
        activation: what becomes of gate and up, such as ``epilogue.swiglu(limit=7.0)``, or
            ``epilogue.swiglu(turn=128)`` for weights that were quantised before they were laid out.
        out: bf16 ``[M, N]`` or ``[E, capacity, N]`` to write; None to allocate.

    Returns:
        bf16 ``[M, N]`` or ``[E, capacity, N]``, contiguous, or ``out``. Rows of no expert are not written.

    Raises:
        TypeError: not one of ``offsets``, ``group_index`` and ``valid_rows`` is given, or a number without
            what it goes with; ``activation`` makes no column of two, or quantises; or as the products.
        ValueError, RuntimeError: as the products.
    """
    if sum(each is not None for each in (offsets, group_index, valid_rows)) != 1:
        raise TypeError(
            "experts() wants one of offsets, group_index and valid_rows, which says whose rows are whose"
        )
    if (expected_rows is None) != (valid_rows is None):
        raise TypeError("expected_rows goes with valid_rows: about how many valid rows an expert has")
    if offsets is None and alignment != 1:
        raise TypeError("alignment goes with offsets: what each expert's first row is a multiple of")
    opened = _opened(activation)
    weighted = None if row_weights is None else times_weights(row_weights)
    product, rows = _product(offsets, alignment, group_index, valid_rows, expected_rows)
    middle = product(lhs, gate_up, *rows, epilogue=opened)
    made: Tensor = product(middle, down, *rows, out, epilogue=weighted)
    return made


def mlp(
    x: Tensor | Operand,
    gate_up: Operand,
    down: Operand,
    *,
    activation: Epilogue = SWIGLU,
    out: Tensor | None = None,
) -> Tensor:
    """The feed-forward layer of a dense model, or of experts that see every token.

    Args:
        x: bf16, fp16 or fp32 ``[T, K]``; or e4m3 and scales, as :func:`cute_gemm.quantize_1x128` makes them.
        gate_up: e4m3 ``[2 I, K]`` and its scales, as of :func:`expert_layer`.
        down: e4m3 ``[N, I]`` and its scales.
        activation: what becomes of gate and up, such as ``epilogue.swiglu(limit=7.0)``, or
            ``epilogue.swiglu(turn=128)`` for weights that were quantised before they were laid out.
        out: bf16 ``[T, N]`` to write; None to allocate.

    Returns:
        bf16 ``[T, N]``, contiguous, or ``out``.

    Raises:
        TypeError: ``activation`` makes no column of two, or quantises.
        TypeError, ValueError, RuntimeError: as :func:`cute_gemm.quantize_1x128` and
            :func:`cute_gemm.fp8_gemm_nt`.
    """
    lhs = quantize_1x128(x) if isinstance(x, Tensor) else x
    middle = fp8_gemm_nt(lhs, gate_up, epilogue=_opened(activation))
    return fp8_gemm_nt(middle, down, out)


def _product(
    offsets: Tensor | None,
    alignment: int,
    group_index: Tensor | None,
    valid_rows: Tensor | None,
    expected_rows: int | None,
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The operation, and what it takes to say whose rows are whose."""
    if offsets is not None:
        return functools.partial(m_grouped_fp8_gemm_nt_offsets, alignment=alignment), (offsets,)
    if group_index is not None:
        return m_grouped_fp8_gemm_nt_contiguous, (group_index,)
    return m_grouped_fp8_gemm_nt_masked, (valid_rows, expected_rows)


def _opened(activation: Epilogue) -> QuantizingEpilogue:
    """What the first product does with its sums.

    Raises:
        TypeError: that is no activation of a gate.
    """
    wanted = "an epilogue that makes one column of two, and quantises nothing: `epilogue.swiglu()`"
    if not isinstance(activation, Epilogue):
        raise TypeError(f"activation is {words.kind(activation)}; wanted {wanted}")
    form = activation.form
    if form.narrowing != 2 or form.is_quantized:
        made = "quantises" if form.is_quantized else "makes as many columns as there are sums"
        raise TypeError(f"activation {made}; wanted {wanted}")
    return activation.then(quantized())


def _experts_of(gate_up: Operand) -> int:
    """How many experts there are, of weights that products have not judged yet.

    Raises:
        TypeError: they are no pair of tensors.
        ValueError: they are of one expert.
    """
    if not isinstance(gate_up, (tuple, list)) or not gate_up or not isinstance(gate_up[0], Tensor):
        raise TypeError(
            f"gate_up is {words.kind(gate_up)}; wanted a pair of e4m3 and its scales: `quantize_128x128(w)`"
        )
    if gate_up[0].dim() != 3:
        raise ValueError(
            f"gate_up has shape {tuple(gate_up[0].shape)}; wanted [E, 2 I, K], also of one expert"
        )
    return gate_up[0].shape[0]
