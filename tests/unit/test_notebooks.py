"""Notebooks of examples: what is in them. CI executes some."""

import ast
import sys
from pathlib import Path

import pytest

pytest.importorskip("jupytext")
pytest.importorskip("nbclient")
SITE = Path(__file__).parents[2] / "docs" / "site"
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def notebooks():
    sys.path.insert(0, str(SITE))
    try:
        import notebooks
    finally:
        sys.path.remove(str(SITE))
    return notebooks


@pytest.mark.parametrize("name", ["01_dense_fp8_gemm.py", "ladder/04_wgmma.py", "yours/02_scheduler.py"])
def test_a_notebook_has_all_of_an_example(notebooks, name):
    source = (EXAMPLES / name).read_text()
    first, setup, *cells = notebooks.notebook(EXAMPLES / name).cells
    assert (first.cell_type, setup.cell_type) == ("markdown", "code")
    prose = ast.get_docstring(ast.parse(source)).splitlines()
    assert first.source.splitlines()[0] == f"# {prose[0].removesuffix('.')}"
    assert first.source.endswith(prose[-1])
    code = "\n".join(each.source for each in cells if each.cell_type == "code")
    # Of the file, all but its docstring.
    assert ast.dump(ast.parse(code)) == ast.dump(ast.Module(ast.parse(source).body[1:], []))
    assert any(each.cell_type == "markdown" for each in cells)


def test_all_examples_are_written_by_their_folders(notebooks, tmp_path, capsys):
    notebooks.main(["--out", str(tmp_path)])
    made = sorted(path.relative_to(tmp_path).with_suffix("") for path in tmp_path.rglob("*.ipynb"))
    assert made == sorted(path.relative_to(EXAMPLES).with_suffix("") for path in EXAMPLES.rglob("[0-9]*.py"))
    assert len(capsys.readouterr().out.splitlines()) == len(made) > 18
