"""Where links of documents lead on the site, and the pages that are made of files outside of docs/."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

README_PAGES = {
    "operations.md": ("Operations and settings", ("Operations", "Settings", "Caches and tuned choices")),
    "speed.md": ("Speed", ("Speed",)),
}
"""Pages of sections of the README, by title; the home page has the others."""

_LINK = re.compile(r"(\]\()([^)\s]+)(\))|^(\[[^\]]+\]: )(\S+)()$", flags=re.MULTILINE)
_FENCE = re.compile(r"^(```.*?^```$)", flags=re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`]*`")
_LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".jsonl": "json"}


def sections(text: str) -> dict[str, str]:
    """What stands under each heading of the second level, the heading included; "" is what is before."""
    head, *parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    return {"": head} | {part.partition("\n")[0].removeprefix("## "): part for part in parts}


def readme_page(uri: str, text: str) -> str:
    """A page of sections of the README, whose whole text is given."""
    found = sections(text)
    if uri not in README_PAGES:
        elsewhere = {name for _, names in README_PAGES.values() for name in names}
        return "".join(part for name, part in found.items() if name not in elsewhere)
    title, names = README_PAGES[uri]
    if names == (title,):
        return found[title].removeprefix("#")
    return f"# {title}\n\n" + "".join(found[name] for name in names)


def rewritten(text: str, origin: str, uri: str) -> str:
    """Markdown whose links lead to pages of the site.

    Args:
        text: markdown, as it stands in ``origin``.
        origin: its file, from the root of the repository.
        uri: the page that it becomes, from the root of the site's sources.
    """

    def lead(found: re.Match[str]) -> str:
        before, target, after = (part for part in found.groups() if part is not None)
        return before + _on_site(target, origin, uri) + after

    parts = _FENCE.split(text)
    prose = (_LINK.sub(lead, _unescaped(part)) for part in parts[::2])
    return "".join(next(prose) if number % 2 == 0 else part for number, part in enumerate(parts))


def outside(text: str, origin: str) -> Iterator[str]:
    """Files and folders outside of docs/ that a document leads to, from the root of the repository."""
    for part in _FENCE.split(text)[::2]:
        for found in _LINK.finditer(part):
            target = found[2] or found[5]
            if not _is_outside_of_all(target):
                path = _path(target.partition("#")[0], origin)
                if path.is_relative_to(ROOT) and path.exists() and _uri(path, "").startswith("source/"):
                    yield path.relative_to(ROOT).as_posix()


def source_page(path: str) -> str:
    """The page of a source file, or of a folder."""
    place = ROOT / path
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n"
    if place.is_dir():
        there = posixpath.dirname(source_uri(path))
        files = sorted(each for each in place.iterdir() if each.is_file())
        pages = {each.name: posixpath.relpath(_uri(each, ""), there) for each in files}
        return head + "".join(f"- [{name}]({uri})\n" for name, uri in pages.items())
    fence = "`" * 6
    return f"{head}{fence}{_LANGUAGES.get(place.suffix, 'text')}\n{place.read_text()}{fence}\n"


def with_contents(paths: Sequence[str]) -> set[str]:
    """Paths, and the files of those that are folders, but for files that have another page."""
    files = (each for path in paths if (ROOT / path).is_dir() for each in (ROOT / path).iterdir())
    own = (each for each in files if each.is_file() and _uri(each, "").startswith("source/"))
    return {*paths, *(each.relative_to(ROOT).as_posix() for each in own)}


def source_uri(path: str) -> str:
    """The page of a source file or folder."""
    return f"source/{path}/index.md" if (ROOT / path).is_dir() else f"source/{path}.md"


def _unescaped(text: str) -> str:
    """Bars of code in tables, which GitHub wants escaped, and Python's Markdown does not."""

    def row(found: re.Match[str]) -> str:
        return _CODE.sub(lambda code: code[0].replace("\\|", "|"), found[0])

    return re.sub(r"^\|.*$", row, text, flags=re.MULTILINE)


def _on_site(target: str, origin: str, uri: str) -> str:
    if _is_outside_of_all(target):
        return target
    name, mark, anchor = target.partition("#")
    if not name and origin != "README.md":
        return target
    path = _path(name, origin) if name else ROOT / origin
    found = _uri(path, anchor)
    return posixpath.relpath(found, posixpath.dirname(uri) or ".") + mark + anchor


def _is_outside_of_all(target: str) -> bool:
    return re.match(r"[a-z]+:", target) is not None


def _path(name: str, origin: str) -> Path:
    return (ROOT / origin).parent.joinpath(name).resolve() if name else ROOT / origin


def _uri(path: Path, anchor: str) -> str:
    relative = path.relative_to(ROOT).as_posix()
    if relative == "README.md":
        slugs = {
            name.lower().replace(" ", "-"): uri for uri, (_, names) in README_PAGES.items() for name in names
        }
        return slugs.get(anchor, "index.md")
    if relative == "CONTRIBUTING.md":
        return "contributing.md"
    if relative == "examples/README.md":
        return "examples/index.md"
    if relative.startswith("examples/") and path.suffix == ".py":
        return relative.removesuffix(".py") + ".md"
    if relative.startswith("docs/") and path.suffix != ".py":
        return relative.removeprefix("docs/")
    return source_uri(relative)
