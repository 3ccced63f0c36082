"""Roles of docstrings, such as ``:func:`name```, as links of the site where the name has a place there."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod|attr):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Rewrites the docstrings of a package that was loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Of all that is in it."""
        self._rewrite(pkg)

    def _rewrite(self, obj: griffe.Object) -> None:
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(lambda found: _link(found[1], obj), obj.docstring.value)
        for member in obj.members.values():
            if isinstance(member, griffe.Object):
                self._rewrite(member)


def _link(name: str, obj: griffe.Object) -> str:
    try:
        path = obj.resolve(name)
    except griffe.NameResolutionError:
        path = name
    return f'<autoref optional identifier="{path}"><code>{name}</code></autoref>'
