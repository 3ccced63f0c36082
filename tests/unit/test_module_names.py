"""Modules that tests find by a bare name: each is the only one of its name."""

import collections
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
APPENDED = ("benchmarks", "tests", "tests/fuzz", "tests/gpu", "tests/unit")
PREPENDED = ("docs/pictures", "docs/site")


def names(folder: Path) -> set[str]:
    """Those of a folder but what pytest loads by its path."""
    stems = {path.stem for path in folder.glob("*.py")}
    return {stem for stem in stems - {"__init__", "conftest"} if not stem.startswith("test_")}


def test_no_two_have_a_name() -> None:
    count = collections.Counter(name for folder in APPENDED + PREPENDED for name in names(ROOT / folder))
    assert [name for name, number in count.items() if number > 1] == []


def test_none_that_is_found_last_is_called_like_one_of_the_dsl() -> None:
    """A DSL of 4.8.0 appends a folder of its own to the path, and so may any that comes."""
    specification = importlib.util.find_spec("cutlass")
    assert specification
    (package,) = specification.submodule_search_locations or ()
    taken = names(Path(package)) | names(Path(package) / "base_dsl") | sys.stdlib_module_names
    assert {name for folder in APPENDED for name in names(ROOT / folder)} & taken == set()
