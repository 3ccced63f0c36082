"""The tutorials of examples/yours: what they show on a CPU, and how they are written."""

import ast
import importlib
import io
import re
import sys
import tokenize
from dataclasses import dataclass, replace
from typing import Any

import cutlass.cute as cute
import hypothesis.strategies as st
import pytest
from hypothesis import given
from tutorials import FOLDER, NAMES, load

from cute_gemm.testing import programs
from examples import examples

sys.path.append(str(FOLDER.parents[1] / "benchmarks"))
ladder = importlib.import_module("ladder")

SECTIONS = ["## Measured", "## What follows", "## Break it"]


def lines_of_code(text: str) -> int:
    """Lines with something but comments and documentation."""
    beside = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    used: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_text = token.type == tokenize.STRING and token.line.lstrip().startswith('"""')
        if token.type not in beside | {tokenize.ENDMARKER} and not is_text:
            used |= set(range(token.start[0], token.end[0] + 1))
    return len(used)


@pytest.mark.parametrize("name", NAMES)
def test_a_tutorial_is_short_and_says_what_it_must(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 300
    assert 40 < lines_of_code(text) <= 150
    prose = ast.get_docstring(ast.parse(text)) or ""
    title, _, rest = prose.partition("\n")
    assert re.fullmatch(r"Your \w+: .*\.", title)
    assert f"\n    python examples/yours/{name}.py\n" in rest
    assert re.findall(r"^## .*$", prose, re.MULTILINE) == SECTIONS
    assert load(name).TUTORIAL.name == name


def test_tutorials_are_listed() -> None:
    text = (FOLDER.parent / "README.md").read_text()
    found = re.findall(r"^\| \[(\w+)\]\(yours/(\w+)\.py\) \| (.*) \|$", text, flags=re.MULTILINE)
    docstrings = {name: ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text())) for name in NAMES}
    titles = {name: (text or "").partition("\n")[0].removesuffix(".") for name, text in docstrings.items()}
    assert found == [(name, name, titles[name]) for name in NAMES]


def test_what_was_measured_is_written_into_texts() -> None:
    row = {
        "tutorial": NAMES[0],
        "rung": "yours",
        "shape": [4096, 4096, 7168],
        "us": 1.5,
        "tflops": 900.0,
        "gbps": 1.0,
        "of_limit": 0.5,
        "error": 1.4e-6,
        "registers": 168,
        "device": "a card",
        "date": "a date",
        "versions": {},
    }
    rows = [row | {"rung": "the library's"}, row, row | {"tutorial": NAMES[1]}]
    text = ladder.measured_together(rows, NAMES[0])
    assert text.count("| 4096x4096x7168 | 1.5 | 900 TFLOP/s | 50.0% | 1.4e-06 | 168 |") == 2
    assert text.index("the library's") < text.index("yours")
    assert ladder.measured_together(rows, NAMES[2]) == "Not yet measured."
    on_record = ladder.read_tutorials()
    assert [path.stem for path in ladder.tutorials()] == NAMES
    for path in ladder.tutorials():
        text = path.read_text()
        assert ladder.with_measured(text, ladder.measured_together(on_record, path.stem)) == text


def test_the_epilogue_is_its_own_reference(capsys: pytest.CaptureFixture[str]) -> None:
    load("01_epilogue").on_the_cpu()
    assert float(re.findall(r"error (\S+),", capsys.readouterr().out)[0]) < 2e-6


def test_the_model_of_sums_errs_less_the_more_often_it_promotes(capsys: pytest.CaptureFixture[str]) -> None:
    load("03_mainloop").model()
    errors = [float(each) for each in re.findall(r"error (\S+) before", capsys.readouterr().out)]
    assert errors == sorted(errors)
    assert len(errors) == 4
    # What was measured of sums that are not promoted at all, less rounding (docs/performance.md has kernels
    # that promote).
    assert errors[0] < 2e-8
    assert 1e-6 < errors[-1] < 4e-6


def test_one_large_value_spoils_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    load("04_scaling").precision()
    found = re.findall(r"error (\S+) of the others per token and channel, (\S+) by", capsys.readouterr().out)
    (plain, plain_blocks), (larger, _), (largest, blocks) = [tuple(map(float, pair)) for pair in found]
    assert plain == larger == plain_blocks
    assert largest > 4 * blocks


SIZES = st.lists(st.one_of(st.just(0), st.integers(0, 300), st.integers(0, 3000)), min_size=1, max_size=70)


@given(SIZES, st.sampled_from([1, 7, 132]), st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 2, 1)]))
@examples(60)
def test_the_scheduler_hands_out_each_tile_once_the_largest_group_first(
    sizes: list[int], num_sms: int, cluster_mnk: tuple[int, int, int]
) -> None:
    schedule = load("02_scheduler").check(sizes, num_sms, cluster_mnk)
    tiles = sorted((tile for tile in schedule.tiles if tile.is_valid), key=lambda tile: tile.index)
    taken = [sizes[tile.group] for tile in tiles if (tile.x, tile.y) == (0, 0)]
    assert taken == sorted(taken, reverse=True)


def test_as_many_groups_as_there_may_be() -> None:
    load("02_scheduler").check([3 * group % 200 for group in range(1022)])


def test_the_walk_finds_the_scheduler_that_is_broken_as_the_tutorial_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tutorial = load("02_scheduler")

    @dataclass(frozen=True, kw_only=True)
    class Broken(tutorial.LargestFirst):  # type: ignore[misc, name-defined]
        @cute.jit
        def at(self, index: Any) -> Any:
            return tutorial.MGroupedOffsetsScheduler.at(self, index)

    monkeypatch.setattr(tutorial, "LargestFirst", Broken)
    with pytest.raises(AssertionError, match="not each row once"):
        tutorial.check([100, 200, 300])


def test_arguments_are_read_only_if_the_process_was_started_for_the_tutorial(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = replace(load("01_epilogue").TUTORIAL, trials=())
    monkeypatch.setattr(programs, "is_hopper", lambda: False)
    monkeypatch.setattr("sys.argv", ["/somewhere/ipykernel_launcher.py", "-f", "kernel.json"])
    programs.present(empty)
    assert "no Hopper GPU" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["examples/yours/01_epilogue.py", "--ot", "rows.jsonl"])
    with pytest.raises(SystemExit):
        programs.present(empty)
    with pytest.raises(SystemExit):
        programs.present(empty, ["-f", "kernel.json"])
