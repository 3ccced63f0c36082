"""The tutorials of examples/yours as tests load them: as files, and as cells of a notebook."""

from __future__ import annotations

import functools
import importlib.util
import linecache
import os
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "examples" / "yours"
NAMES = [path.stem for path in sorted(FOLDER.glob("*.py"))]


@functools.cache
def load(name: str) -> Any:
    """A tutorial as a module."""
    module_name = f"tutorial_{name}"
    specification = importlib.util.spec_from_file_location(module_name, FOLDER / f"{name}.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[module_name] = module
    specification.loader.exec_module(module)
    return module


def run_cell(name: str, main: str = "__main__") -> dict[str, Any]:
    """Runs a tutorial as a notebook runs a cell: there is no file, but source for whoever asks linecache."""
    text = (FOLDER / f"{name}.py").read_text()
    cell = f"/nowhere/ipykernel_{os.getpid()}/{name}.py"
    linecache.cache[cell] = (len(text), None, text.splitlines(keepends=True), cell)
    scope: dict[str, Any] = {"__name__": main}
    exec(compile(text, cell, "exec", dont_inherit=True), scope)
    return scope
