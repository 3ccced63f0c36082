"""Makes notebooks of examples, and has a machine without a GPU execute them.

    python docs/site/notebooks.py --out notebooks                       # of all examples
    python docs/site/notebooks.py --execute --out notebooks examples/ladder/04_wgmma.py

A notebook has the text of an example, then its code, cut as the site cuts it: a cell for each definition.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import jupytext
import nbformat
import pages
from links import ROOT
from nbclient import NotebookClient

EXAMPLES = ROOT / "examples"
MOST_SECONDS = 300  # of a cell


def percent(example: Path) -> str:
    """An example in Jupytext's format of Python with cells that begin with ``# %%``."""
    source = example.read_text()
    prose = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[2]
    # What a file knows of itself, and a notebook does not: its name, and that it was given no arguments.
    setup = f"import sys\n\n__file__ = {example.name!r}\nsys.argv = [__file__]"
    cells = [(f"# {pages.title(source)}\n{prose}", setup)]
    cells += [(f"## {heading}" if heading else "", code) for heading, code in pages.pieces(source)]
    return "\n".join(line for text, code in cells for line in _cell(text, code))


def _cell(text: str, code: str) -> Iterator[str]:
    if text:
        yield "# %% [markdown]"
        yield from (f"# {line}" for line in text.splitlines())
    yield from ("# %%", code)


def notebook(example: Path) -> nbformat.NotebookNode:
    """The notebook of an example, not executed."""
    made = jupytext.reads(percent(example), fmt="py:percent")
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """What the arguments ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("examples", nargs="*", type=Path, help="files (default: all in examples/)")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write notebooks to")
    parser.add_argument("--execute", action="store_true", help="execute them; raises where a cell does")
    options = parser.parse_args(argv)
    for example in options.examples or sorted(EXAMPLES.rglob("[0-9]*.py")):
        made = notebook(example.resolve())
        if options.execute:
            where = {"metadata": {"path": str(example.resolve().parent)}}
            NotebookClient(made, timeout=MOST_SECONDS, resources=where).execute()
        path = options.out / example.resolve().relative_to(EXAMPLES).with_suffix(".ipynb")
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(made, path)
        print(path, flush=True)


if __name__ == "__main__":
    main()
