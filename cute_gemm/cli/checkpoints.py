"""What tensors a checkpoint has, and where: one safetensors file, or a folder of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from cute_gemm.measure.errors import CommandError
from cute_gemm.measure.files import named, parse_json, read_text

_INDEX = "model.safetensors.index.json"
_INDEXES = "*.safetensors.index.json"


@dataclass(frozen=True)
class Stored:
    """One tensor, by what its file's header says: ``dtype`` is safetensors' name, such as ``F8_E4M3``."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    def load(self, device: torch.device, index: int | None = None) -> torch.Tensor:
        """The tensor; or of its first dimension one index.

        Raises:
            CommandError: the file has changed.
        """
        try:
            with safe_open(self.file, framework="pt", device=str(device)) as file:
                return file.get_tensor(self.name) if index is None else file.get_slice(self.name)[index]
        except SafetensorError as error:
            raise CommandError(f"{named(self.file)}: {self.name}: {error}") from error


def tensors_of(path: Path) -> dict[str, Stored]:
    """The tensors of a checkpoint by name, none of which is loaded.

    Args:
        path: a safetensors file; a folder of them, of which an index, where there is one, says which; or
            such an index.

    Raises:
        CommandError: there is no such file, one is no safetensors file, two have a tensor of the same name,
            or they lack what the index names.
    """
    index = _index_of(path)
    if index is None:
        return _read(_files_of(path))
    homes = _homes(index)
    found = _read(index.parent / file for file in sorted(set(homes.values())))
    for name, file in homes.items():
        if name not in found:
            raise CommandError(f"{named(index)}: it has {name} in {file}, which lacks it")
    return found


def _index_of(path: Path) -> Path | None:
    if not path.is_dir():
        return path if path.name.endswith(_INDEXES[1:]) else None
    indexes = sorted(filter(Path.is_file, path.glob(_INDEXES)))
    if len(indexes) > 1 and path / _INDEX not in indexes:
        names = ", ".join(index.name for index in indexes)
        raise CommandError(f"{named(path)}: it has several indexes, {names}; name one of them")
    return next((index for index in indexes if index.name == _INDEX), indexes[0] if indexes else None)


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(filter(Path.is_file, path.glob("*.safetensors")))
        if not files:
            raise CommandError(f"{named(path)}: no *.safetensors in it")
        return files
    if not path.exists():
        raise CommandError(f"no such file: {path}")
    if not path.is_file():
        raise CommandError(f"{named(path)} is neither a file nor a folder")
    return [path]


def _homes(index: Path) -> dict[str, str]:
    """Which file each tensor of an index is in."""
    content = parse_json(read_text(index), named(index))
    homes = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(homes, dict) or not homes:
        raise CommandError(f"{named(index)}: it has no weight_map, which says where tensors are")
    for name, file in homes.items():
        # Of this folder: an index is not to be trusted with others.
        if not isinstance(file, str) or Path(file).name != file:
            raise CommandError(f"{named(index)}: {name} is in {file!r}, which is no file of this folder")
        if not (index.parent / file).is_file():
            raise CommandError(f"{named(index)}: it names {file}, which is not there")
    return homes


def _read(files: Iterable[Path]) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in sorted(file.keys()):
                    if name in found:
                        raise CommandError(
                            f"{named(path)} and {found[name].file.name} both have {name}; name one"
                        )
                    header = file.get_slice(name)
                    found[name] = Stored(path, name, tuple(header.get_shape()), header.get_dtype())
        except SafetensorError as error:
            raise CommandError(f"{named(path)} is not a safetensors file: {error}") from error
    return found
