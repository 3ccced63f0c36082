"""What is made of the marks of a kernel that writes the clock, and what its command does without a GPU."""

import importlib
import json
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cute_gemm.measure import records

pytest.importorskip("cutlass")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
clocked_kernel, clocked_roles = map(importlib.import_module, ("clocked_kernel", "clocked_roles"))

CONFIG = SimpleNamespace(fragments=2)
K_BLOCKS = 2


def marks_of(start: int) -> torch.Tensor:
    """Those of a CTA with two tiles of two k-blocks, by a clock that is at ``start`` at the first."""
    marks = torch.zeros(clocked_kernel.SHAPE, dtype=torch.int64)
    for number in range(4):
        at = 100 * number
        marks[0, clocked_kernel.TMA, number, :2] = torch.tensor([at, at + 7])
        for group in range(2):
            begin = at + 1000 + 10 * group
            marks[0, group, number, :6] = begin + torch.tensor([0, 1, 20, 30, 50, 60])
    for tile in range(2):
        marks[1, clocked_kernel.TMA, tile, 2:4] = torch.tensor([200 * tile + 190, 200 * tile + 195])
        for group in range(2):
            begin = 200 * tile + 1000 + 10 * group
            marks[1, group, tile, :4] = begin + torch.tensor([-1, 161, 162, 165])
    written = marks != 0
    written[0, clocked_kernel.TMA, 0, 0] = True
    wrapped = (marks + start + 2**31) % 2**32 - 2**31
    return torch.where(written, wrapped, 0).int()


@pytest.mark.parametrize("start", [12345, 2**31 - 500, 2**32 - 1100])
def test_marks_become_events_whatever_the_clock_was(start: int) -> None:
    rows = clocked_roles.rows_of(marks_of(start), CONFIG, K_BLOCKS, 5)
    assert [(row["role"], row["tile"]) for row in rows] == [
        (role, tile) for tile in range(2) for role in clocked_kernel.ROLES
    ]
    events = {(row["role"], row["tile"]): row["events"] for row in rows}
    assert events["TMA warp", 0] == [
        ["wait", 0, 0, 7],
        ["issue", 0, 7, 100],
        ["wait", 1, 100, 107],
        ["issue", 1, 107, 190],
        ["take", None, 190, 195],
    ]
    first = events["math warpgroup 1", 0]
    assert first[:5] == [
        ["wait", 0, 1010, 1011],
        ["multiply", 0, 1011, 1030],
        ["promote", 0, 1030, 1040],
        ["multiply", 0, 1040, 1060],
        ["promote", 0, 1060, 1070],
    ]
    assert first[10:] == [["take", None, 1172, 1175], ["store", None, 1175, 1209]]
    second = events["math warpgroup 0", 1]
    assert second[0] == ["wait", 0, 1200, 1201]
    # When the last tile's store ends is not marked.
    assert second[10:] == [["take", None, 1362, 1365]]
    assert json.loads(json.dumps(rows)) == rows


def test_as_many_tiles_as_are_asked_for() -> None:
    assert {row["tile"] for row in clocked_roles.rows_of(marks_of(1), CONFIG, K_BLOCKS, 1)} == {0}


def test_no_stage_of_the_product_is_skipped() -> None:
    config = clocked_roles.lookup.find_config(clocked_roles.CONFIG)
    k_blocks, rest = divmod(clocked_roles.PRODUCT[2], config.block_k)
    assert (rest, k_blocks % config.stages) == (0, 0)


def test_what_is_read_off_the_picture_is_on_record() -> None:
    root = Path(__file__).parents[2]
    rows = list(records.read_rows(root / "benchmarks" / "experiments" / "roles_over_time.jsonl"))
    first = [row for row in rows if row["role"].startswith("math") and row["tile"] == 0]
    bars = [end - begin for row in first for kind, _, begin, end in row["events"] if kind == "multiply"]
    begun = [[begin for kind, _, begin, _ in row["events"] if kind == "multiply"] for row in first]
    k_blocks = [(each[-2] - each[2]) / (len(each) / 2 - 2) for each in begun]  # two bars each
    text = (root / "docs" / "how_it_works.md").read_text()
    assert f"a bar is about {round(statistics.mean(bars), -1):.0f} long" in " ".join(text.split())
    assert f"about {round(statistics.mean(k_blocks), -1):,.0f} cycles" in " ".join(text.split())
    assert f"{rows[0]['us']:.0f} us, {rows[0]['unmarked_us']:.0f} without" in text
