"""The JSON lines that measurements are kept in, and the names in them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..storage import replace_file
from .files import named, parse_json, read_text
from .shapes import Shape

Row = dict[str, Any]

DENSE = "dense_1d2d"
CONTIGUOUS = "m_grouped_contiguous"
OFFSETS = "m_grouped_offsets"
MASKED = "m_grouped_masked"
GROUPED = CONTIGUOUS, OFFSETS, MASKED

DENSE_GRADIENTS = DENSE_ADDED, DENSE_FP32, DENSE_BF16 = (
    "dense_1d1d_accumulate_fp32",
    "dense_1d1d_fp32",
    "dense_1d1d_bf16",
)
K_GROUPED_GRADIENTS = K_GROUPED_ADDED, K_GROUPED_FP32, K_GROUPED_BF16 = (
    "k_grouped_accumulate_fp32",
    "k_grouped_fp32",
    "k_grouped_bf16",
)
GRADIENTS = *DENSE_GRADIENTS, *K_GROUPED_GRADIENTS
PRODUCTS = DENSE, *GROUPED, *GRADIENTS

ROWS = "quantize_1x128"
GATHERED = "quantize_1x128_gathered"
SWIGLU = "swiglu_quantize_1x128"
INTERLEAVED = "swiglu_quantize_1x128_interleaved"
NORMED = "rms_norm_quantize_1x128"
SUMMED = "add_rms_norm_quantize_1x128"
BOTH_WAYS = "quantize_both_ways"
BLOCKS = "quantize_128x128"
QUANTIZERS = ROWS, GATHERED, SWIGLU, INTERLEAVED, NORMED, SUMMED, BOTH_WAYS, BLOCKS

EXPERT_LAYER = "moe_expert_layer"
LAYERS = (EXPERT_LAYER,)

KEYS = (
    dict.fromkeys((DENSE, *DENSE_GRADIENTS), ("m", "n", "k"))
    | dict.fromkeys(GROUPED, ("groups", "expected_m", "n", "k"))
    | dict.fromkeys(K_GROUPED_GRADIENTS, ("groups", "m", "n", "expected_k"))
    | dict.fromkeys(QUANTIZERS, ("m", "k"))
    | dict.fromkeys(LAYERS, ("tokens", "experts", "all_experts", "choices", "k", "inner"))
)
"""What names a problem within an operation, in the order of a :data:`Shape`."""

OURS = "cute_gemm"
OURS_DEPENDENT = "cute_gemm, dependent launch"
OURS_INDEPENDENT = "cute_gemm, no dependent launch"
FLOOR = "floor"
COPY = "copy"
EMPTY = "empty kernel"
TORCH = "torch"
COMPILED = "torch.compile"
DEEPGEMM = "DeepGEMM"
DEEPGEMM_DEPENDENT = "DeepGEMM, dependent launch"
FAST = "cuBLASLt tensorwise fast-accumulate"
BLOCKWISE = "cuBLASLt blockwise"
TRITON = "Triton"
UNFUSED = "unfused"
UNFUSED_DEEPGEMM = "unfused, products of DeepGEMM"
UNFUSED_MASKED = "unfused, masked products of DeepGEMM"
BF16 = "bf16"

ROUTE, QUANTIZE, GATE_UP, ACTIVATE, DOWN, COMBINE = STAGES = (
    "route",
    "quantize",
    "gate_up",
    "activate",
    "down",
    "combine",
)
"""Of an expert layer, in order. What is fused into another is none of its own."""

COLD, CHAIN, SUSTAINED = ALL_REGIMES = "cold", "chain", "sustained"
ROW_MAJOR, M_MAJOR = "row_major", "m_major"


def main_layout(op: str) -> str:
    """Of scales, in rows that are compared: as DeepGEMM takes those of A, or as what quantises makes them."""
    return ROW_MAJOR if op in (*QUANTIZERS, *LAYERS) else M_MAJOR


def read_rows(path: Path) -> list[Row]:
    """The rows of one file.

    Raises:
        CommandError: it cannot be read, or a line is not JSON.
    """
    # Not `splitlines`: a string may hold what it takes for the end of one.
    lines = enumerate(read_text(path).split("\n"), 1)
    return [parse_json(line, f"{named(path)}, line {number}") for number, line in lines if line.strip()]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Replace a file, all of it or nothing, and make its directory if need be.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, "".join(json.dumps(row) + "\n" for row in rows).encode(), mode=0o644)


def key_of(op: str, shape: Shape) -> Row:
    """What says in a row which problem of an operation it is of."""
    return dict(zip(KEYS[op], shape, strict=True))


def shape_of(row: Row) -> Shape:
    """The shape of a row; one without ``op`` is dense."""
    return tuple(row[key] for key in KEYS[row.get("op", DENSE)])
