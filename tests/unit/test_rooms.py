"""Rules of the house that code can be held to by reading it: who imports whom, and who asks for what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import cute_gemm
from cute_gemm.plan.layouts import LAYOUTS

PACKAGE = Path(cute_gemm.__file__).parent
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


def tree_of(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def imports_of(name: str) -> Iterator[str]:
    """All modules that a file imports, anywhere in it, by absolute names."""
    package = ["cute_gemm", *Path(name).parts[:-1]]
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def names_in(imports: Iterator[str], *strangers: str) -> set[str]:
    return {each for each in imports if any(each == s or each.startswith(f"{s}.") for s in strangers)}


RUNS_PRODUCTS = "cute_gemm.ops", "cute_gemm.runtime", "cute_gemm.contract", "cute_gemm.reference"
TOOLS = "cute_gemm.bench", "cute_gemm.tune", "cute_gemm.cli"
STRANGERS = {
    "plan": ("torch", "cutlass", "cute_gemm.kernels", "cute_gemm.schedulers", *RUNS_PRODUCTS, *TOOLS),
    "schedulers": ("torch", "cute_gemm.kernels", *RUNS_PRODUCTS, *TOOLS),
    "kernels": ("torch", *RUNS_PRODUCTS, *TOOLS),
    "contract": ("cutlass", "cute_gemm.ops", "cute_gemm.runtime", *TOOLS),
    "runtime": ("cute_gemm.ops", *TOOLS),
    "ops": TOOLS,
    "measure": ("cute_gemm.ops", *TOOLS),
    "bench": ("cute_gemm.tune", "cute_gemm.cli"),
    "tune": ("cute_gemm.bench", "cute_gemm.cli"),
}
"""What no file of a room imports: imports point one way, and tools stand on `measure`."""


@pytest.mark.parametrize("room", STRANGERS)
def test_imports_point_one_way(room: str) -> None:
    files = [name for name in FILES if name.startswith(f"{room}/")]
    assert files
    found = {name: names_in(imports_of(name), *STRANGERS[room]) for name in files}
    assert {name: strangers for name, strangers in found.items() if strangers} == {}


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
    private = {
        name: names_in(imports_of(name), "torch._C", "torch._dynamo", "torch._inductor") for name in FILES
    }
    assert not any(private.values())
