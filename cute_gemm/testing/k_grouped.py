"""Products of groups of columns: operands, and the judge of their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..column_groups import scale_columns
from ..plan.limits import ceil_div
from ..quantize import dequantize_1x128, scale_blocks
from .errors import assert_close_per_tile, worst_tile_error
from .inputs import Operand, make_inputs

_E4M3_NAN = 0x7F
_BLOCK = 128


@dataclass(frozen=True)
class KGroupedInputs:
    """The operands of `cute_gemm.k_grouped_fp8_gemm_nt`.

    Args:
        lhs: ``(a, sa)``, e4m3 ``[M, K]`` and fp32 ``[M, K // 128 + G]``. Columns of no group, and scales of
            no block, are NaN, so that a result they reach shows it.
        rhs: ``(b, sb)``, the same of N rows.
        offsets: int32 ``[G + 1]``.
        groups: the operands of each group alone, with scales ``[..., ceil(K / 128)]``.
    """

    lhs: Operand
    rhs: Operand
    offsets: Tensor
    groups: tuple[tuple[Operand, Operand], ...]


def make_k_grouped_inputs(
    sizes: Sequence[int],
    m: int,
    n: int,
    kind: str = "normal",
    seed: int = 0,
    device: torch.device | str = "cpu",
    *,
    first: int = 0,
    behind: int = 0,
) -> KGroupedInputs:
    """Inputs of `cute_gemm.k_grouped_fp8_gemm_nt`, with scales M-major, as TMA loads them.

    Args:
        sizes: columns of each group, multiples of 16; any of them may be 0.
        m, n: rows of A and of B.
        kind, seed, device: as for `make_inputs`, of each group.
        first, behind: columns of no group before the first and behind the last, multiples of 16.

    Raises:
        ValueError: unknown kind.
    """
    edges = [first]
    for size in sizes:
        edges.append(edges[-1] + size)
    k = edges[-1] + behind
    groups = tuple(
        _group(m, n, size, kind, seed * len(sizes) + number, device) for number, size in enumerate(sizes)
    )
    lhs, rhs = (
        _placed([group[side] for group in groups], edges, rows, k, device) for side, rows in enumerate((m, n))
    )
    return KGroupedInputs(lhs, rhs, torch.tensor(edges, dtype=torch.int32, device=device), groups)


def assert_k_grouped_correct(out: Tensor, inputs: KGroupedInputs, before: Tensor | None = None) -> float:
    """Fail unless ``out`` is what the operation promises, per tile and per element.

    Args:
        out: ``[G, M, N]``, bf16 or fp32.
        inputs: the operands.
        before: what ``out`` held, if the product was added to it.

    Returns:
        The worst tile error.

    Raises:
        AssertionError: names the group, then as `assert_close_per_tile`.
    """
    worst = 0.0
    for group, ((a, sa), (b, sb)) in enumerate(inputs.groups):
        name = f"group {group} of {a.shape[1]} columns"
        held = torch.zeros_like(out[group]) if before is None else before[group]
        if not a.shape[1]:
            is_kept = torch.equal(out[group].view(torch.uint8), held.view(torch.uint8))
            assert is_kept, f"{name}: not what it {'was' if before is not None else 'is without any: zero'}"
            continue
        wide = [dequantize_1x128(q, s, torch.float64) for q, s in ((a, sa), (b, sb))]
        ref = wide[0] @ wide[1].t() + held.double()
        norms = [_squared_norms(x) for x in wide]
        scale = (norms[0] @ norms[1].t() + held.double().square()).sqrt()
        try:
            assert_close_per_tile(out[group], ref, scale)
        except AssertionError as failure:
            raise AssertionError(f"{name}: {failure}") from None
        worst = max(worst, worst_tile_error(out[group], ref))
    return worst


def _group(
    m: int, n: int, size: int, kind: str, seed: int, device: torch.device | str
) -> tuple[Operand, Operand]:
    """Both operands of one group, each drawn as an A is."""
    kinds = {"one_row": ("one_row", "normal"), "one_column": ("normal", "one_row")}.get(kind, (kind, kind))
    a, _ = make_inputs(m, 1, size, kinds[0], 2 * seed, device)
    b, _ = make_inputs(n, 1, size, kinds[1], 2 * seed + 1, device)
    return a, b


def _placed(
    own: Sequence[Operand], edges: Sequence[int], rows: int, k: int, device: torch.device | str
) -> Operand:
    """One matrix of all groups, and its scales."""
    q = torch.full((rows, k), _E4M3_NAN, dtype=torch.uint8, device=device)
    pitch = ceil_div(rows, 4) * 4
    padded = torch.full((scale_columns(k, len(own)), pitch), torch.nan, device=device, dtype=torch.float32)
    s = padded[:, :rows].t()
    for group, (values, scales) in enumerate(own):
        first = edges[group]
        q[:, first : edges[group + 1]] = values.view(torch.uint8)
        column = first // _BLOCK + group
        s[:, column : column + scales.shape[1]] = scales
    return q.view(torch.float8_e4m3fn), s


def _squared_norms(x: Tensor) -> Tensor:
    """Of each row and block."""
    padded = torch.nn.functional.pad(x, (0, -x.shape[1] % _BLOCK))
    return padded.unflatten(1, (scale_blocks(x.shape[1]), _BLOCK)).square().sum(2)
