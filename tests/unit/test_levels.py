"""What tests run by default, with `--thorough`, and with `--exhaustive`."""

import shutil
from pathlib import Path

import pytest
from levels import cases

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parents[2]

TESTS = """
import pytest
from levels import cases

@pytest.mark.parametrize(("x", "y"), cases([(1, 2), (3, 4), (5, 6)], usual=[(3, 4)]))
def test_pairs(x, y):
    assert y == x + 1

@pytest.mark.thorough
def test_long():
    pass

def test_short(pytestconfig):
    pass
"""


@pytest.mark.parametrize(
    ("options", "passed", "deselected"),
    [
        ((), 2, 3),
        (("--thorough",), 5, 0),
        (("--exhaustive",), 5, 0),
        (("--thorough", "-m", "thorough"), 3, 2),
    ],
)
def test_what_is_thorough_is_left_out(
    pytester: pytest.Pytester, options: tuple[str, ...], passed: int, deselected: int
) -> None:
    for name in ("conftest.py", "levels.py"):
        shutil.copy(ROOT / "tests" / name, pytester.path / name)
    pytester.makeini("[pytest]\nmarkers =\n  gpu: needs a GPU\n  thorough: takes long")
    pytester.makepyfile(TESTS)
    result = pytester.runpytest("-p", "no:cacheprovider", "--strict-markers", *options)
    result.assert_outcomes(passed=passed, deselected=deselected)


def test_cases_of_one_argument_are_no_tuples() -> None:
    one, other = cases(["ab", "cd"], usual=["cd"])
    assert (one.values, [mark.name for mark in one.marks]) == (("ab",), ["thorough"])
    assert (other.values, other.marks) == (("cd",), ())


def test_a_usual_case_that_is_not_there_is_no_usual_case() -> None:
    with pytest.raises(ValueError, match=r"no such cases: \['ef'\]"):
        cases(["ab", "cd"], usual=["cd", "ef"])


def test_what_is_left_out_is_run_by_every_change() -> None:
    run = (ROOT / ".ci" / "run").read_text()
    assert ".venv/bin/pytest tests/unit tests/compile --thorough -m thorough " in run
    assert "tests/unit --thorough " in run.partition("nox")[2]
