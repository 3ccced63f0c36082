"""The table of environment variables and loggers is complete, and names nothing that there is not."""

from __future__ import annotations

import re
from pathlib import Path

import cute_gemm

PACKAGE = Path(cute_gemm.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "server.md"
SOURCES = {path: path.read_text() for path in PACKAGE.rglob("*.py")}
OTHERS = {"HOME", "XDG_CACHE_HOME", "DG_USE_NVIDIA_TOOLS", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"}
"""Variables that are not the package's own, and are asked for by name."""


def in_table(head: str) -> list[list[str]]:
    """What is in code in each row of the table that begins so, in its first cell."""
    table = PAGE.read_text().split(f"\n{head}")[1].split("\n\n")[0]
    return [re.findall(r"`([^`]+)`", row.split("|")[1]) for row in table.splitlines()[2:]]


def test_variables() -> None:
    listed = {name for names in in_table("| variable |") for name in names}
    # A message, a docstring or code: whatever names one.
    named = {name for text in SOURCES.values() for name in re.findall(r"\bCUTE_GEMM_[A-Z0-9_]+\b", text)}
    read = {name for text in SOURCES.values() for name in re.findall(r"environ(?:\.get\(|\[)\"(\w+)\"", text)}
    assert read <= OTHERS
    assert all(any(f'"{name}"' in text for text in SOURCES.values()) for name in OTHERS)
    assert listed - {"CUTE_DSL_*"} == named - {"CUTE_GEMM_"} | OTHERS
    assert {"CUTE_GEMM_JIT", "CUTE_GEMM_CACHE_DIR"} <= named
    assert any('"CUTE_DSL_' in text for text in SOURCES.values())


def test_loggers() -> None:
    listed = {name for names in in_table("| logger |") for name in names}
    made = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path, text in SOURCES.items()
        if "getLogger(__name__)" in text
    }
    assert listed == made
    assert len(made) > 2


def test_levels_of_loggers() -> None:
    """Each level that a module logs at has a row."""
    table = PAGE.read_text().split("\n| logger |")[1].split("\n\n")[0]
    levels: dict[str, set[str]] = {}
    name = ""
    for row in table.splitlines()[2:]:
        logger, level = (cell.strip().strip("`") for cell in row.split("|")[1:3])
        name = logger or name
        levels.setdefault(name, set()).add(level)
    for name, listed in levels.items():
        text = (PACKAGE.parent / Path(*name.split("."))).with_suffix(".py").read_text()
        logged = {each.upper() for each in re.findall(r"\blogger\.(debug|info|warning|error)\(", text)}
        assert logged <= listed, name
