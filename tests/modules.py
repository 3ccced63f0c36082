"""Files that are no modules of a package, as tests load them: rungs and tutorials."""

from __future__ import annotations

import importlib.util
import types
from pathlib import Path


def load(path: Path) -> types.ModuleType:
    """What a file defines, anew each time."""
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
