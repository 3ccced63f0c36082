"""Models by the files that describe them."""

from __future__ import annotations

from pathlib import Path

from ..plan.models import Model, ModelError, model_of
from .errors import CommandError
from .files import named, parse_json, read_text


def read_model(path: Path, instead: str = "--shapes") -> Model:
    """What :func:`cute_gemm.plan.models.model_of` makes of a file.

    Args:
        path: a ``config.json``, or the directory that it is in.
        instead: the argument that names shapes, where a model is not understood.

    Raises:
        CommandError: it cannot be read, lacks what layers follow from, or is of another kind of model.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        return model_of(parse_json(read_text(file), named(file)))
    except ModelError as error:
        if not error.kind:
            raise CommandError(f"{named(file)}: {error}") from error
        raise CommandError(
            f"{named(file)} ({error.kind}): {error}; name shapes by {instead} instead"
        ) from error
