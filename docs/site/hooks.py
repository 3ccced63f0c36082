"""What mkdocs calls while it builds the site: pages of files outside of docs/, and links to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import links
import pages
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files, InclusionLevel

EXAMPLES = links.ROOT / "examples"

_ORIGINS: dict[str, str] = {}
"""The files that pages outside of docs/ are made of, by page."""


def _examples(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.py"))


def _folders() -> list[Path]:
    return sorted(path for path in EXAMPLES.iterdir() if path.is_dir() and _examples(path))


def _uri(example: Path) -> str:
    return example.relative_to(links.ROOT).with_suffix(".md").as_posix()


def on_config(config: Any) -> Any:
    """Fills in the section of the navigation that has the examples, folders such as the ladder below it."""
    pages: list[Any] = ["examples/index.md", *map(_uri, _examples(EXAMPLES))]
    pages += [{folder.name.capitalize(): [*map(_uri, _examples(folder))]} for folder in _folders()]
    config.nav = [{"Examples": pages} if entry == {"Examples": "examples"} else entry for entry in config.nav]
    config.watch += [str(links.ROOT / name) for name in ("README.md", "CONTRIBUTING.md", "examples")]
    return config


@event_priority(100)  # before what checks links looks at the files
def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made of files outside of docs/."""
    readme = (links.ROOT / "README.md").read_text()
    made = {uri: ("README.md", links.readme_page(uri, readme)) for uri in ("index.md", *links.README_PAGES)}
    made["contributing.md"] = ("CONTRIBUTING.md", (links.ROOT / "CONTRIBUTING.md").read_text())
    made["examples/index.md"] = ("examples/README.md", (EXAMPLES / "README.md").read_text())
    for folder in (EXAMPLES, *_folders()):
        for each in _examples(folder):
            made[_uri(each)] = (each.relative_to(links.ROOT).as_posix(), pages.page(each.read_text()))
    texts = [*made.values()]
    for file in files.documentation_pages():
        if file.inclusion.is_included():
            texts.append((f"docs/{file.src_uri}", file.content_string))
    wanted = links.with_contents([path for origin, text in texts for path in links.outside(text, origin)])
    for uri, (origin, text) in made.items():
        _ORIGINS[uri] = origin
        files.append(File.generated(config, uri, content=text))
    for path in sorted(wanted):
        uri = links.source_uri(path)
        _ORIGINS[uri] = f"docs/{uri}"
        files.append(_hidden(File.generated(config, uri, content=links.source_page(path))))
    return files


def _hidden(file: File) -> File:
    """A page that is linked to, and not in the navigation."""
    file.inclusion = InclusionLevel.NOT_IN_NAV
    return file


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Has links lead to pages of the site."""
    uri = page.file.src_uri
    return links.rewritten(markdown, _ORIGINS.get(uri, f"docs/{uri}"), uri)
