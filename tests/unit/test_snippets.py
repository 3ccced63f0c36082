"""What README.md and documents show as Python runs, block after block, on the CPU."""

import inspect
import linecache
import logging
import re
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import cute_gemm

ROOT = Path(__file__).parents[2]
GIVEN = {
    "README": "",
    "docs/epilogues": """
        from cute_gemm import interleave_gate_up, quantize_1x128, quantize_128x128
        x, w = quantize_1x128(torch.randn(16, 256)), quantize_128x128(torch.randn(256, 256))
        bias = torch.randn(256)
        gate, up = torch.randn(128, 256), torch.randn(128, 256)
        down = quantize_128x128(torch.randn(64, 128))
    """,
    "docs/from_bf16": "",
    "docs/from_deepgemm": "",
    "docs/how_it_works": "",
    "docs/moe": """
        x, gate, up, w = (torch.randn(*shape) for shape in ((8, 64), (4, 32, 64), (4, 32, 64), (4, 64, 32)))
        expert_ids, weights = torch.randint(4, (8, 2)), torch.rand(8, 2)
    """,
    "docs/quantizing": """
        x, matrices = torch.randn(64, 256), torch.randn(4, 64, 256)
        sorted_tokens = torch.tensor([3, 1, -1])
        ends, counts, groups = (torch.zeros(size, dtype=torch.int32) for size in (4, 4, 64))
    """,
    "docs/server": "",
    "docs/torch_compile": "",
    "docs/training": """
        model = torch.nn.ModuleDict({"up": torch.nn.Linear(64, 128), "lm_head": torch.nn.Linear(64, 100)})
        batches = torch.randn(2, 16, 4096, dtype=torch.bfloat16)
        tokens = torch.randn(40, 512, dtype=torch.bfloat16)
    """,
    "docs/troubleshooting": "",
}
"""What pages suppose to be there. Those of docs/kernels.md are for the compiler: tests/compile."""


def blocks(page: str) -> list[str]:
    """The page's Python, each block behind as many lines as in the page, so that errors name its lines."""
    text = (ROOT / f"{page}.md").read_text()
    found = re.finditer(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return ["\n" * text.count("\n", 0, each.start(1)) + each[1] for each in found]


@pytest.mark.parametrize("page", GIVEN)
def test_what_a_page_shows_runs(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Inductor's compiler takes half a minute, and a C++ compiler; the graph is the same.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # It would compile; that such arguments are taken is seen.
    monkeypatch.setattr(cute_gemm, "warmup", inspect.signature(cute_gemm.warmup).bind)
    # A page may turn the log on.
    monkeypatch.setattr(logging.getLogger("cute_gemm"), "level", logging.NOTSET)
    scope: dict[str, Any] = {"__name__": "__main__", "torch": torch, "cute_gemm": cute_gemm}
    exec(textwrap.dedent(GIVEN[page]), scope)
    shown = blocks(page)
    assert shown, page
    for number, block in enumerate(shown):
        name = f"<block {number} of {page}>"
        linecache.cache[name] = (len(block), None, block.splitlines(keepends=True), name)
        exec(compile(block, name, "exec"), scope)


def test_every_page_with_python_runs() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    shown = {
        path.relative_to(ROOT).with_suffix("").as_posix() for path in pages if "```python" in path.read_text()
    }
    assert shown == {*GIVEN, "docs/kernels"}
