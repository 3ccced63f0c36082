"""The matrix: the tests under every Python, with the oldest and with the newest libraries, of pyproject.toml.

`nox` runs all of it, `nox --session 'tests-3.10(oldest)' -- tests/unit` a part; `nox --list` has the names. A
Python that is not installed, and that uv cannot fetch, is named and skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = False

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)

# What pyenv has installed counts, not only what its shims were told to start.
_PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *map(str, sorted(_PYENV.glob("versions/3.*/bin")))])


def lower_bounds() -> list[str]:
    """What is needed, each as old as it may be: where bounds clash, uv would take a newer one in silence."""
    needed = map(Requirement, PROJECT["project"]["dependencies"])
    bounds = ((each.name, part) for each in needed for part in each.specifier if part.operator == ">=")
    return [f"{name}=={part.version}" for name, part in bounds]


@nox.session(python=PYTHONS)
@nox.parametrize("resolution", [nox.param("lowest-direct", id="oldest"), nox.param("highest", id="newest")])
def tests(session: nox.Session, resolution: str) -> None:
    """All tests, or what is given to pytest after `--`, with the oldest or the newest libraries."""
    # Wheels only: with sources, "oldest" would be what cannot be built any more.
    chosen = ["--resolution", resolution, "--only-binary", ":all:"]
    if resolution == "lowest-direct":
        chosen += lower_bounds()
    session.install(*chosen, "--requirements", "pyproject.toml", "--extra", "test")
    session.install("--no-deps", ".")
    session.run("pytest", *(session.posargs or ["--thorough"]))
