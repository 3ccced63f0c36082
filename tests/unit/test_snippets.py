"""What README.md and documents show as Python runs, block after block, on the CPU."""

import linecache
import logging
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
NAMES = ["from_bf16", "from_deepgemm", "how_it_works", "troubleshooting"]
PAGES = ["README.md", *(f"docs/{name}.md" for name in NAMES)]


def blocks(page: str) -> list[str]:
    """The page's Python, each block behind as many lines as in the page, so that errors name its lines."""
    text = (ROOT / page).read_text()
    found = re.finditer(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return ["\n" * text.count("\n", 0, each.start(1)) + each[1] for each in found]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_runs(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Inductor's compiler takes half a minute, and a C++ compiler; the graph is the same.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # A page may turn the log on.
    monkeypatch.setattr(logging.getLogger("cute_gemm"), "level", logging.NOTSET)
    scope: dict[str, Any] = {"__name__": "__main__"}
    shown = blocks(page)
    assert shown, page
    for number, block in enumerate(shown):
        name = f"<block {number} of {page}>"
        linecache.cache[name] = (len(block), None, block.splitlines(keepends=True), name)
        exec(compile(block, name, "exec"), scope)
