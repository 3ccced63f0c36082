"""The fuzzer of the command line: some cases of it, and what it would object to."""

import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "fuzz"))

import campaign
import command_line
from command_line import CommandLine, Ending

from cute_gemm.bench import rows
from cute_gemm.cli import info


def test_command_lines_end_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """All in this process; those in one of their own take seconds each."""
    monkeypatch.setattr(command_line, "SHARE_OF_PROCESSES", 0)
    campaign.run(command_line.case, seed=0, count=30)


@pytest.mark.parametrize(
    ("ending", "objection"),
    [
        (Ending(1, "", "Traceback (most recent call last):\nKeyError: 1\n", "plain"), "a traceback"),
        (Ending(1, "", "cute-gemm: unexpected KeyError: 1\n", "plain"), "nobody expected"),
        (Ending(1, "", "cute-gemm: \x1b[31m\n", "plain"), "it prints"),
        (Ending(0, "a\rb\n", "", "plain"), "it prints"),
        (Ending(1, "", "sorry\n", "plain"), "do not name the program"),
        (Ending(1, "", "cute-gemm: this\ncute-gemm: and that\n", "plain"), "more than one line"),
        (Ending(1, "", "", "plain"), "no word why"),
        (Ending(0, "", "cute-gemm: no\n", "plain"), "errors, and status 0"),
        (Ending(141, "", "", "plain"), "status 141"),
        (Ending(-9, "", "", "plain"), "status -9"),
        (Ending(0, "", "", "plain"), "status 0, not 1"),
    ],
)
def test_what_is_wrong_is_objected_to(ending: Ending, objection: str) -> None:
    line = CommandLine(["info"], status=1 if "not 1" in objection else None)
    assert any(objection in each for each in command_line.objections_to(line, ending))


def test_a_fault_fails_a_campaign(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that raises, and one by which a time that is none passes for one."""

    def broken(args: object) -> None:
        raise KeyError("gone")

    monkeypatch.setattr(command_line, "SHARE_OF_PROCESSES", 0)
    monkeypatch.setattr(info, "_run", broken)
    monkeypatch.setattr(command_line, "COMMANDS", [command_line.info])
    with pytest.raises(AssertionError, match=r"case \d+ of seed 0 failed.*nobody expected"):
        campaign.run(command_line.case, seed=0, count=5)
    monkeypatch.setitem(rows._RULES, "us", ((lambda value: True), "anything"))
    monkeypatch.setitem(rows._RULES, "median", ((lambda value: True), "anything"))
    monkeypatch.setattr(command_line, "COMMANDS", [command_line.compare])
    with pytest.raises(AssertionError, match=r"case \d+ of seed 0 failed"):
        campaign.run(command_line.case, seed=0, count=20)


def test_cases_are_the_same_again(tmp_path: Path) -> None:
    for number, draw in enumerate(command_line.COMMANDS):
        folders = [tmp_path / f"{number}{each}" / "same" for each in "ab"]
        for folder in folders:
            folder.mkdir(parents=True)
        first, second = (draw(random.Random(number), folder) for folder in folders)
        assert [each.replace(str(folders[0]), "") for each in first.arguments] == [
            each.replace(str(folders[1]), "") for each in second.arguments
        ]
