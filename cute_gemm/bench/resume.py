"""Goes on with a run that was cut off: what its files have is kept, and not measured again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..measure.errors import CommandError
from ..measure.files import named
from ..measure.records import OURS, Row, shape_of
from .results import read_results
from .suite import Trial


@dataclass(frozen=True)
class Rest:
    """What a run has yet to do.

    Args:
        trials: what is to be measured.
        kept: rows that its files begin with.
    """

    trials: Sequence[Trial]
    kept: dict[Path, list[Row]] = field(default_factory=dict)


def file_of(trial: Trial, directory: Path) -> Path:
    """Where the rows of a trial go."""
    return directory / f"{trial.suite}_{trial.regime}.jsonl"


def rest_of(trials: Sequence[Trial], directory: Path, origin: Row) -> Rest:
    """What of ``trials`` the files in a directory lack.

    A file holds all rows of a trial or none. Where ours were wrong, those of peers are measured again, too.

    Args:
        trials: of the whole run.
        directory: that was written to.
        origin: of the rows to come.

    Raises:
        CommandError: a file holds no results, or those of another device, or of other versions.
    """
    paths = dict.fromkeys(file_of(trial, directory) for trial in trials)
    found = {path: _rows(path, origin) for path in paths}
    left = [trial for trial in trials if not _is_done(trial, found[file_of(trial, directory)])]
    again = {(file_of(trial, directory), op, trial.shape) for trial in left for op in trial.ops}
    kept = {
        path: [row for row in rows if (path, row["op"], shape_of(row)) not in again]
        for path, rows in found.items()
    }
    return Rest(left, kept)


def _is_done(trial: Trial, rows: Sequence[Row]) -> bool:
    measured = {(row["op"], shape_of(row)) for row in rows if row["peer"] == OURS}
    return all((op, trial.shape) in measured for op in trial.ops)


def _rows(path: Path, origin: Row) -> list[Row]:
    # A run that was cut off before its first row has left it empty.
    if not path.exists() or not path.stat().st_size:
        return []
    rows = read_results(path)
    for row in rows:
        differing = [
            f"{name} {version}, not {origin['versions'][name]}"
            for name, version in row["versions"].items()
            if origin["versions"].get(name, version) != version
        ]
        if row["device"] != origin["device"]:
            differing.insert(0, f"{row['device']}, not {origin['device']}")
        if differing:
            raise CommandError(
                f"{named(path)}: measured on {'; '.join(differing)}: it cannot be gone on with; name another"
                " directory by --out"
            )
    return rows
