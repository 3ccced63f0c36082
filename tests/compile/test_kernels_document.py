"""What docs/kernels.md shows is code that compiles, block after block, as cells of a notebook."""

import linecache
import re
from pathlib import Path
from typing import Any

import pytest

from cute_gemm.runtime import cache, instance

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
FOR_A_GPU = "# On a Hopper GPU"


def test_the_page_has_something_to_run() -> None:
    assert len(BLOCKS) >= 5
    assert sum(block.startswith(FOR_A_GPU) for block in BLOCKS) == 1


def test_all_of_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(cache.DIRECTORY_VARIABLE, str(tmp_path))
    scope: dict[str, Any] = {"__name__": "__main__"}
    programs = []
    for number, block in enumerate(BLOCKS):
        if block.startswith(FOR_A_GPU):
            compile(block, PAGE, "exec")
            continue
        name = f"<cell {number} of kernels.md>"
        linecache.cache[name] = (len(block), None, block.splitlines(keepends=True), name)
        exec(compile(block, name, "exec"), scope)
        if scope["program"] not in programs:
            programs.append(scope["program"])
            instance(scope["program"])
    assert [type(each.kernel.value).__name__ for each in programs] == [
        "Identity",
        "FunctionValue",
        "BiasRelu",
        "Identity",
    ]
    assert cache.cache_info().kernels == 4
    assert scope["stats"].stack_bytes == 0
    assert "Tile(cluster=0" in capsys.readouterr().out
