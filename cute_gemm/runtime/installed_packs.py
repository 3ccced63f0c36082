"""Packs that came as wheels (:mod:`.pack_wheel`): where they lie once they are installed.

That is in folders of ``cute_gemm_packs``, a namespace without code, wherever Python imports from. An entry
point would be found by reading the metadata of all that is installed, which takes a hundred times as long.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

NAMESPACE = "cute_gemm_packs"


def directories() -> tuple[Path, ...]:
    """Their folders, in the order of ``sys.path``; it is looked for them again only where that changes."""
    return _below(tuple(sys.path))


@functools.lru_cache(1)
def _below(places: tuple[str, ...]) -> tuple[Path, ...]:
    found = []
    for place in dict.fromkeys(places):
        # Nothing is installed in the current directory.
        if not os.path.isabs(place):
            continue
        try:
            names = sorted(os.listdir(os.path.join(place, NAMESPACE)))
        # Most have none; some are no folders.
        except OSError:
            continue
        # pip calls what it is about to remove `~name`.
        found += [Path(place, NAMESPACE, name) for name in names if name[0].isalnum()]
    return tuple(found)
