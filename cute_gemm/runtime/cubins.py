"""Where GPU code lies: the cubin in the data of an object or a library, and the code in a cubin."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .elf import EXECUTE, PROGBITS, section_headers

_EM_CUDA = 190


def find(image: bytes) -> slice | None:
    """The first ELF image for CUDA within an object file or a library, if there is one."""
    start = image.find(b"\x7fELF", 1)
    while start >= 0:
        machine = struct.unpack_from("<H", image, start + 18)[0]
        if machine == _EM_CUDA:
            # The tables of segments and sections, in either order, are the last parts of a cubin.
            segments, sections = struct.unpack_from("<QQ", image, start + 32)
            segment, num_segments, section, num_sections = struct.unpack_from("<4H", image, start + 54)
            size = max(segments + segment * num_segments, sections + section * num_sections)
            return slice(start, start + size)
        start = image.find(b"\x7fELF", start + 1)
    return None


def code(cubin: bytes) -> Iterator[slice]:
    """Where the instructions of each function of a cubin lie in it."""
    for _, kind, flags, _, offset, size, *_ in section_headers(cubin):
        if kind == PROGBITS and flags & EXECUTE:
            yield slice(offset, offset + size)
