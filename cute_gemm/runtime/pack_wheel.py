"""Writes a pack as a wheel, which pip installs to where processes look (:mod:`.installed_packs`)."""

from __future__ import annotations

import base64
import hashlib
import io
import platform
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..storage import replace_file
from .installed_packs import NAMESPACE
from .pack_errors import PackError

_NAME = re.compile(r"[A-Za-z0-9]+(?:[-_.]+[A-Za-z0-9]+)*")
_VERSION = re.compile(
    r"\d+(?:\.\d+)*(?:(?:a|b|rc)\d+)?(?:\.post\d+)?(?:\.dev\d+)?(?:\+[a-z0-9]+(?:\.[a-z0-9]+)*)?"
)
_MODE = 0o100644
_BEFORE_ALL = 1980, 1, 1, 0, 0, 0
"""The least time that a zip file can say: wheels of equal packs are equal."""


class Distribution(NamedTuple):
    """What a wheel is called.

    Args:
        name: normalised, with hyphens.
        version: of it.
    """

    name: str
    version: str

    @property
    def folder(self) -> str:
        """The name as it stands in file names."""
        return self.name.replace("-", "_")


def named(text: str, version: str) -> Distribution:
    """A distribution by ``NAME`` or ``NAME==VERSION``.

    Args:
        text: as said.
        version: where none is said.

    Raises:
        PackError: they are not what pip takes, or this package's own name.
    """
    name, equals, said = text.partition("==")
    version = said if equals else version
    if not _NAME.fullmatch(name) or not _VERSION.fullmatch(version):
        raise PackError(
            f"a wheel cannot be called {text!r}; want NAME or NAME==VERSION, such as kernels==1.0"
        )
    found = Distribution(re.sub(r"[-_.]+", "-", name).lower(), version)
    if found.name == "cute-gemm":
        raise PackError("pip would take a wheel of the name cute-gemm for another version of this package")
    return found


def write(directory: Path, files: Mapping[str, bytes], of: Distribution, version: str) -> Path:
    """Writes the wheel of a pack, in place of one that may be there.

    Args:
        directory: where to; made if it is not there.
        files: as :func:`.pack_writer.contents` gives them.
        of: its name and version.
        version: of this package, which it is for.

    Returns:
        Its path.

    Raises:
        OSError: it cannot be written.
    """
    tag = f"py3-none-linux_{platform.machine()}"
    info = f"{of.folder}-{of.version}.dist-info"
    inside = {f"{NAMESPACE}/{of.folder}/{name}": content for name, content in files.items()}
    inside[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {of.name}\nVersion: {of.version}\n"
        f"Summary: Compiled kernels of cute_gemm\nRequires-Dist: cute-gemm=={version}\n"
    ).encode()
    inside[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: cute-gemm {version}\nRoot-Is-Purelib: false\nTag: {tag}\n"
    ).encode()
    record = f"{info}/RECORD"
    lines = [*(_recorded(name, content) for name, content in inside.items()), f"{record},,"]
    inside[record] = "".join(f"{line}\n" for line in lines).encode()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{of.folder}-{of.version}-{tag}.whl"
    replace_file(path, _zipped(inside), _MODE & 0o777)
    return path


def _recorded(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}"


def _zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _BEFORE_ALL)
            entry.external_attr = _MODE << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
