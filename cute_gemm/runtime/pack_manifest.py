"""What a pack says of itself: which kernels it has, what they were made of, and what they need."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from typing import Any

from .pack_errors import PackError

FORMAT = "cute_gemm pack, format 1"
FILE = "manifest.json"
MOST_BYTES = 16 << 20
"""Of that file."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[\w+-][\w.+-]*\.so")


@dataclass(frozen=True)
class PackedKernel:
    """A kernel of a pack.

    Args:
        name: as it is logged.
        file: a library in the pack's folder.
        function: the library's symbol that TVM FFI calls.
        sha256: of the file.
    """

    name: str
    file: str
    function: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All of it.

    Args:
        cute_gemm: the version of this package that made it.
        sources: a digest of what of this package shapes kernels.
        system, cpu: what host code is for: ``"Linux"``, and the name of a level of CPUs.
        cuda: the major version of CUDA whose compiler made the GPU code.
        least_driver: the CUDA version that a driver must be for, such as 12000.
        least_runtime: the version of the DSL from which its runtime library has all that is called.
        made_with: versions of what it was made with.
        settings: environment variables of the DSL when it was made.
        kernels: by :func:`.packs.identity`.
    """

    cute_gemm: str
    sources: str
    system: str
    cpu: str
    cuda: int
    least_driver: int
    least_runtime: str
    made_with: dict[str, str]
    settings: dict[str, str] = field(default_factory=dict)
    kernels: dict[str, PackedKernel] = field(default_factory=dict)

    def text(self) -> str:
        """What its file holds."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1) + "\n"


def parse(text: str) -> Manifest:
    """The manifest that a file holds.

    Raises:
        PackError: it is no manifest, of another format, or a field of it is missing or wrong.
    """
    try:
        content = json.loads(text)
    # Of text that is nested a thousand deep the parser says RecursionError.
    except (ValueError, RecursionError) as error:
        raise PackError(f"{FILE} is damaged: {error}") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise PackError(f"{FILE} is not of what this version reads, {FORMAT!r}")
    kernels = content.pop("kernels", None)
    if not isinstance(kernels, dict):
        raise PackError(f"{FILE} is damaged: it lists no kernels")
    made = Manifest(**_checked(Manifest, content, "it", but_for="kernels"))
    for key, value in kernels.items():
        made.kernels[key] = _kernel(value)
    return made


def _kernel(value: Any) -> PackedKernel:
    if not isinstance(value, dict):
        raise PackError(f"{FILE} is damaged: a kernel is {value!r}")
    kernel = PackedKernel(**_checked(PackedKernel, value, "a kernel"))
    # Of the pack's folder: another file is not to be named.
    if not _FILE_NAME.fullmatch(kernel.file) or not _SHA256.fullmatch(kernel.sha256):
        raise PackError(f"{FILE} is damaged: file or SHA-256 of {kernel.name} are not what such are")
    return kernel


def _checked(kind: type, content: dict[str, Any], what: str, but_for: str = "") -> dict[str, Any]:
    """The fields of a dataclass, each of its type."""
    wanted = {each.name: str(each.type) for each in dataclasses.fields(kind) if each.name != but_for}
    if content.keys() != wanted.keys():
        different = ", ".join(sorted(map(str, content.keys() ^ wanted.keys())))
        raise PackError(f"{FILE} is damaged: {what} lacks, or has beside what is known: {different}")
    for name, value in content.items():
        texts = value.values() if type(value) is dict else (value,)
        fits = type(value) is int if wanted[name] == "int" else all(type(each) is str for each in texts)
        if not fits or (type(value) is dict) != wanted[name].startswith("dict"):
            raise PackError(f"{FILE} is damaged: {name} of {what} is {value!r}")
    return content
