"""Shapes among the arguments, and as tables show them."""

from __future__ import annotations

import argparse

from cute_gemm.measure.arguments import positive
from cute_gemm.plan.limits import OUT_BYTES
from cute_gemm.plan.problem import GemmProblem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--m``, ``--n``, ``--k`` and ``--out-dtype`` to a parser."""
    meanings = {"--m": "rows of A and D", "--n": "rows of B, columns of D", "--k": "columns of A and B"}
    for name, meaning in meanings.items():
        parser.add_argument(name, type=positive, help=meaning)
    parser.add_argument("--out-dtype", choices=tuple(OUT_BYTES), default="bfloat16", help="type of D")


def extents_text(problem: GemmProblem) -> str:
    """``64 x 2112 x 7168``: M, N and K."""
    return f"{problem.m} x {problem.n} x {problem.k}"
