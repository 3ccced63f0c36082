"""Draws the pictures of this folder, each from what it shows: a module here is a picture that has ``draw``.

    python docs/pictures/draw.py [--check]

With ``--check`` it writes nothing, and exits with 1 if a file is not what its script draws. The chart of the
ladder, and errors over K (error_over_k.py), are drawn by benchmarks/ladder.py.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = "fragment", "swizzle", "ring", "cluster", "tiles", "over_time"


def main(arguments: list[str]) -> int:
    """The exit status."""
    old = []
    for name in NAMES:
        path, text = HERE / f"{name}.svg", importlib.import_module(name).draw()
        if not path.exists() or path.read_text() != text:
            old.append(path)
            if "--check" not in arguments:
                path.write_text(text)
    if "--check" in arguments:
        for path in old:
            print(f"docs/pictures/{path.name} is out of date: run docs/pictures/draw.py", file=sys.stderr)
        return 1 if old else 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
