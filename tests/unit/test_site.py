"""The site: pages of files outside of docs/, the API reference, and what pages say of code."""

import ast
import importlib
import importlib.util
import re
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import cute_gemm

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
API = {"cute_gemm": "cute_gemm"} | {
    f"cute_gemm.{name}": name for name in ("epilogue", "moe", "nn", "runtime", "testing")
}
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "AGENTS.md", *DOCS.rglob("*.md")]


def load(name: str) -> types.ModuleType:
    specification = importlib.util.spec_from_file_location(name, DOCS / "site" / f"{name}.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


links, pages = load("links"), load("pages")


@pytest.mark.parametrize(
    ("target", "origin", "uri", "wanted"),
    [
        ("docs/kernels.md", "README.md", "index.md", "kernels.md"),
        ("docs/speed.png", "README.md", "speed.md", "speed.png"),
        ("docs/results.md#a", "README.md", "index.md", "results.md#a"),
        ("../README.md", "docs/kernels.md", "kernels.md", "index.md"),
        ("../README.md#operations", "docs/kernels.md", "kernels.md", "operations.md#operations"),
        ("#settings", "README.md", "index.md", "operations.md#settings"),
        ("#words", "docs/glossary.md", "glossary.md", "#words"),
        ("../contract.md", "docs/api/moe.md", "api/moe.md", "../contract.md"),
        ("../CONTRIBUTING.md", "docs/design.md", "design.md", "contributing.md"),
        ("docs/design.md#rooms", "CONTRIBUTING.md", "contributing.md", "design.md#rooms"),
        (
            "../examples/01_dense_fp8_gemm.py",
            "docs/from_bf16.md",
            "from_bf16.md",
            "examples/01_dense_fp8_gemm.md",
        ),
        (
            "../cute_gemm/plan/config.py",
            "docs/kernels.md",
            "kernels.md",
            "source/cute_gemm/plan/config.py.md",
        ),
        ("../cute_gemm/plan/", "docs/kernels.md", "kernels.md", "source/cute_gemm/plan/index.md"),
        (
            "../docs/pictures/draw.py",
            "examples/README.md",
            "examples/index.md",
            "../source/docs/pictures/draw.py.md",
        ),
        ("../docs/pictures/ring.svg", "examples/README.md", "examples/index.md", "../pictures/ring.svg"),
        ("https://arxiv.org/abs/2412.19437", "docs/credits.md", "credits.md", None),
    ],
)
def test_links_lead_to_pages_of_the_site(target: str, origin: str, uri: str, wanted: str | None) -> None:
    text = f"See [it]({target}).\n\n```\n[it]({target})\n```\n"
    assert links.rewritten(text, origin, uri) == text.replace(target, wanted or target, 1)


def test_bars_of_code_in_tables_are_written_as_the_site_wants_them() -> None:
    text = "| a | `b \\| c` |\n\n`d \\| e`\n"
    assert links.rewritten(text, "docs/moe.md", "moe.md") == "| a | `b | c` |\n\n`d \\| e`\n"


def test_files_that_pages_lead_to_are_pages() -> None:
    text = "[a](../cute_gemm/plan/config.py) [b](../cute_gemm/plan/) [c](design.md) [d](../README.md)\n"
    found = list(links.outside(text, "docs/kernels.md"))
    assert found == ["cute_gemm/plan/config.py", "cute_gemm/plan"]
    assert {"cute_gemm/plan", "cute_gemm/plan/config.py", "cute_gemm/plan/recipe.py"} <= links.with_contents(
        found
    )
    assert "class KernelConfig" in links.source_page(found[0])
    assert "[config.py](config.py.md)" in links.source_page(found[1])
    assert "(../../examples/02_moe_layer.md)" in links.source_page("examples")
    assert links.with_contents(["examples"]).isdisjoint(
        path.relative_to(ROOT).as_posix() for path in EXAMPLES
    )


def test_every_section_of_the_readme_is_on_one_page() -> None:
    readme = (ROOT / "README.md").read_text()
    pages = [links.readme_page(uri, readme) for uri in ("index.md", *links.README_PAGES)]
    for name in links.sections(readme):
        heading = rf"^##? {re.escape(name)}$" if name else r"^# cute_gemm$"
        assert sum(len(re.findall(heading, page, flags=re.MULTILINE)) for page in pages) == 1, name


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_ladder_shows_all_of_an_example(path: Path) -> None:
    source = path.read_text()
    docstring = ast.parse(source).body[0].end_lineno
    code = [line for line in source.splitlines()[docstring:] if line]
    shown = "\n".join(part for _, part in pages.pieces(source)).splitlines()
    assert [line for line in shown if line] == code
    page = pages.page(source)
    assert page.startswith(f"# {pages.title(source)}\n")
    definitions = [each for each in ast.parse(source).body if hasattr(each, "decorator_list")]
    assert page.count("\n### ") == len([each for each in definitions if ast.get_docstring(each)]) > 0


@pytest.mark.parametrize("module", API)
def test_the_reference_has_every_public_name(module: str) -> None:
    text = (DOCS / "api" / f"{API[module]}.md").read_text()
    named = re.findall(rf"^::: {re.escape(module)}\.(\w+)$", text, flags=re.MULTILINE)
    public = set(importlib.import_module(module).__all__)
    have_pages = {"__version__", *(name.partition(".")[2] for name in API)}
    assert len(named) == len(set(named))
    assert set(named) == public - have_pages


def names_of_code() -> Iterator[str]:
    for page in PAGES:
        yield from re.findall(r"`(cute_gemm(?:\.\w+)+)", page.read_text())


@pytest.mark.parametrize("name", sorted(set(names_of_code())))
def test_names_that_pages_use_are_there(name: str) -> None:
    found: object = cute_gemm
    parts = name.split(".")[1:]
    for number, part in enumerate(parts):
        if not hasattr(found, part):
            importlib.import_module(".".join(["cute_gemm", *parts[: number + 1]]))
        found = getattr(found, part)


def messages() -> set[str]:
    """All strings of the package, of formatted ones what is between the values."""
    trees = (ast.parse(path.read_text()) for path in Path(cute_gemm.__file__).parent.rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_messages_that_troubleshooting_quotes_are_the_packages_own() -> None:
    text = (DOCS / "troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)`", text, flags=re.MULTILINE)
    said = messages() | {"torch._dynamo.exc.Unsupported", "KernelWarning"}
    parts = {part.strip() for each in quoted for part in each.split("...") if part.strip()}
    assert len(parts) > 30
    assert {part for part in parts if not any(part in each for each in said)} == set()
