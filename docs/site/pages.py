"""Pages of examples, made of their own docstrings and code."""

from __future__ import annotations

import ast

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def title(source: str) -> str:
    """What an example is about: the first line of its docstring."""
    text = ast.get_docstring(ast.parse(source))
    assert text, "an example begins with a docstring"
    return text.partition("\n")[0].removesuffix(".")


def page(source: str) -> str:
    """Markdown of an example: its docstring, which may have sections, then its code, a section a definition.

    All of the code is there, in order and as it is: its comments are what the example says.
    """
    module = ast.parse(source)
    prose = ast.get_docstring(module) or ""
    parts = [f"# {title(source)}", prose.partition("\n")[2].strip("\n")]
    parts.append("## The code")
    for heading, code in pieces(source):
        parts += [f"### {heading}" if heading else "", f"```python\n{code}\n```"]
    return "\n\n".join(filter(None, parts)) + "\n"


def pieces(source: str) -> list[tuple[str, str]]:
    """The code behind the docstring, cut at definitions that have one; each with its heading, or none."""
    module, lines = ast.parse(source), source.splitlines()
    body = module.body[1:]
    found: list[tuple[str, int]] = [("", module.body[0].end_lineno or 0)]
    for before, node in zip(module.body, body, strict=False):
        if isinstance(node, _DEFINITIONS):
            text = ast.get_docstring(node)
            heading = text.partition("\n")[0].removesuffix(".") if text else ""
        elif isinstance(before, _DEFINITIONS):
            heading = ""
        else:
            continue
        found.append((heading, before.end_lineno or 0))
    ends = [*(start for _, start in found[1:]), len(lines)]
    cut = [
        (heading, "\n".join(lines[start:end]).strip("\n"))
        for (heading, start), end in zip(found, ends, strict=True)
    ]
    return [(heading, code) for heading, code in cut if code]
