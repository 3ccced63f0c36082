"""What pyproject.toml promises is what the matrix of noxfile.py runs, and what the README says."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
# Python 3.10 has none, and pytest brings the other there.
tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
TESTED = [Requirement(each) for each in [*PROJECT["dependencies"], *EXTRAS["bench"], *EXTRAS["test"]]]
BOUNDED = {"nvidia-cutlass-dsl", "torch"}
"""What kernels and tensors are made by: a release that nobody has tried is not promised."""


def pythons() -> list[str]:
    """Those that the classifiers name, in order."""
    prefix = "Programming Language :: Python :: 3."
    return [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if each.startswith(prefix)]


def bounds(specifier: SpecifierSet) -> dict[str, str]:
    return {each.operator: each.version for each in specifier}


def test_classifiers_name_every_python_from_the_oldest_on() -> None:
    minors = [int(each.removeprefix("3.")) for each in pythons()]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert PROJECT["requires-python"] == f">=3.{minors[0]}"


@pytest.mark.parametrize("needed", TESTED, ids=lambda each: each.name)
def test_what_is_needed_has_an_oldest_version_and_where_it_counts_a_newest(needed: Requirement) -> None:
    """Else "oldest" would be any, and "newest" what nobody has tried."""
    wanted = {">=", "<"} if needed.name in BOUNDED else {">="}
    assert needed.name == PROJECT["name"] or bounds(needed.specifier).keys() == wanted


def test_extras_have_the_bounds_of_what_they_extend() -> None:
    plain = {each.name: each.specifier for each in TESTED if each.name in BOUNDED}
    more = [Requirement(each) for extra in EXTRAS.values() for each in extra]
    assert {each.name for each in more} & BOUNDED
    assert all(each.specifier == plain[each.name] for each in more if each.name in BOUNDED)


def test_the_matrix_has_the_oldest_and_the_newest_under_every_python() -> None:
    pytest.importorskip("nox")
    command = [sys.executable, "-m", "nox", "--list", "--json"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    sessions: list[dict[str, Any]] = json.loads(listed.stdout)
    found = [(each["python"], each["call_spec"]["resolution"]) for each in sessions]
    assert found == [(each, resolution) for each in pythons() for resolution in ("lowest-direct", "highest")]


def test_ci_runs_the_oldest_of_the_matrix() -> None:
    run = (ROOT / ".ci" / "run").read_text()
    assert re.findall(r"tests-([\d.]+)\(oldest\)", run) == [pythons()[0]]


def test_the_readme_promises_the_same() -> None:
    torch = bounds(next(each.specifier for each in TESTED if each.name == "torch"))
    newest = f"2.{int(torch['<'].removeprefix('2.')) - 1}"
    first, *_, last = pythons()
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"Python {first} to {last}, PyTorch {torch['>=']} to {newest}." in text
