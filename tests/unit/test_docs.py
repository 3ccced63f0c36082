"""Documents are as long as they may be, and what they point at is there."""

import re
from pathlib import Path

import pytest

from cute_gemm.plan import candidates

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md")),
    *sorted(path for folder in ("docs", "examples") for path in (ROOT / folder).rglob("*.md")),
]
NOTEBOOK = ROOT / "docs" / "performance.md"
CODE = ("cute_gemm", "benchmarks", "examples", "tests")


def slug(heading):
    """The anchor that a heading gets, as GitHub and others make it."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\- ]", "", heading.strip().lower()))


def anchors(text):
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)}


def broken_links(path):
    """Targets of links and pictures of a document that are not there."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(
        r"^\[[^\]]+\]: (\S+)$", text, flags=re.MULTILINE
    )
    for target in found:
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            yield target


def entries():
    """Numbers of the notebook's entries, in order."""
    return [int(number) for number in re.findall(r"^### (\d+)\. ", NOTEBOOK.read_text(), flags=re.MULTILINE)]


def test_configurations_that_documents_inspect_are_candidates():
    names = {config.name for config in candidates.every_config()}
    text = "".join(path.read_text() for path in DOCUMENTS)
    assert set(re.findall(r"inspect --config (\S+)", text)) <= names
    assert "inspect --config" in text


def test_readme_is_at_most_200_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_design_is_at_most_two_pages():
    assert len((ROOT / "docs" / "design.md").read_text().splitlines()) <= 130


def test_the_house_has_the_rooms_and_files_that_the_readme_names():
    house = (ROOT / "README.md").read_text().split("## The house")[1].split("```")[1]
    tokens = re.findall(r"(?<![\w.])(\w+(?:\.py|/))", house)
    rooms = [ROOT / name for name in ("cute_gemm", "examples", "tests", "benchmarks", "docs")]
    inside = [*rooms, *(path for room in rooms for path in room.rglob("*"))]
    there = {f"{path.name}/" if path.is_dir() else path.name for path in inside}
    assert len(tokens) > 30
    assert sorted(set(tokens) - there) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    assert list(broken_links(path)) == []


def test_entries_are_numbered_one_after_the_other():
    assert entries() == list(range(1, len(entries()) + 1))


def test_every_entry_is_in_the_index():
    index = NOTEBOOK.read_text().split("## Index by topic")[1].split("\n## ")[0]
    assert {int(number) for number in re.findall(r"\[(\d+)\]", index)} == set(entries())


def test_code_cites_entries_that_are_there():
    cited = {}
    for folder in CODE:
        for path in (ROOT / folder).rglob("*.py"):
            text = re.sub(r"\s*\n\s*#?\s*", " ", path.read_text())
            for numbers in re.findall(r"docs/performance\.md, (\d+(?:(?:, | and |, and )\d+)*)", text):
                cited |= {int(number): path.name for number in re.findall(r"\d+", numbers)}
    assert cited
    assert {number: name for number, name in cited.items() if number not in entries()} == {}
