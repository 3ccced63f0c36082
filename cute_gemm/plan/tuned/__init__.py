"""Measured choices of kernels: a JSON file for each device name, asked before the cost model.

`table` is the format and the lookup, `files` finds, reads and writes files. Those in this directory come with
the package; `cute-gemm tune` makes the user's own, which win.
"""

from __future__ import annotations

from ..config import KernelConfig
from ..problem import GemmProblem
from .files import tables


def choice(problem: GemmProblem) -> KernelConfig | None:
    """What was measured to be best for ``problem`` on cards of the name of its own; None if nothing was."""
    found = (table.choice(problem) for table in tables(problem.card.name))
    return next((config for config in found if config is not None), None)


def rows_measured(problem: GemmProblem) -> list[int]:
    """The M of all problems that something was measured of and that differ from ``problem`` in M alone."""
    return sorted({m for table in tables(problem.card.name) for m in table.rows(problem)})
