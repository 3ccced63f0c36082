"""Rules of the house that code can be held to by reading it; those of imports are in `test_imports`."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import cute_gemm
from cute_gemm.plan.layouts import LAYOUTS

PACKAGE = Path(cute_gemm.__file__).parent
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


def tree_of(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def asks_for_a_layout(tree: ast.Module) -> Iterator[int]:
    """Lines that compare what is called a layout with the name of one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            constants = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
            if constants & set(LAYOUTS) and "layout" in ast.unparse(node):
                yield node.lineno


def test_no_file_asks_which_layout_it_has() -> None:
    """Layout objects answer what depends on it. Tools have operations of their own, by name."""
    may = "plan/layouts/", "bench/", "tune/", "testing/"
    lines = {name: list(asks_for_a_layout(tree_of(name))) for name in FILES if not name.startswith(may)}
    assert {name: found for name, found in lines.items() if found} == {}
    assert list(asks_for_a_layout(ast.parse("layout == 'masked'"))) == [1]


def private_names(tree: ast.Module) -> Iterator[str]:
    """Names within torch that begin with an underscore, as ``torch._C`` does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
            path = ast.unparse(node)
            if path.startswith("torch."):
                yield path


def test_private_names_of_torch_are_in_one_place() -> None:
    """But for peers, which are called as their users call them."""
    files = [name for name in FILES if not name.startswith("bench/peers/")]
    found = {name: list(private_names(tree_of(name))) for name in files}
    assert {name for name, names in found.items() if names} <= {"runtime/torch_internals.py"}


def test_nothing_strange_is_kept_at_the_top() -> None:
    """Such as what a shell makes of a command that was quoted wrongly."""
    checkout = Path(__file__).parents[2]
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=checkout, capture_output=True, text=True, check=False, timeout=60
    )
    if listed.returncode or not (checkout / ".git").exists():
        pytest.skip("no checkout of one's own")
    names = {path.split("/")[0] for path in listed.stdout.split("\0") if path}
    folders = {".ci", "benchmarks", "cute_gemm", "docs", "drop_in", "examples", "tests"}
    documents = {"AGENTS.md", "CONTRIBUTING.md", "LICENSE", "README.md"}
    files = {".gitignore", "mkdocs.yml", "noxfile.py", "pyproject.toml"} | documents
    assert names <= folders | files


def test_a_file_of_the_kernel_fits_in_a_readers_head() -> None:
    """With docstrings. Others are smaller, and no reader opens them first."""
    lines = {name: len(FILES[name].read_text("utf-8").splitlines()) for name in FILES if "kernels/" in name}
    assert "kernels/gemm_fp8_1d2d.py" in lines
    assert {name: count for name, count in lines.items() if count > 400} == {}
