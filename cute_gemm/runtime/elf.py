"""What an object file for x86-64 has: sections that are loaded, symbols, and relocations."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

HEADER, SEGMENT, SECTION = "<16s2HI3QI6H", "<2I6Q", "<2I4Q2I2Q"
SYMBOL, RELOCATION, DYNAMIC = "<I2BH2Q", "<2Qq", "<2Q"
IDENTITY = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
X86_64 = 62
WRITE, EXECUTE = 1, 4
PROGBITS = 1
PAGE = 4096

_RELOCATABLE = 1
_ALLOC, _TLS = 2, 0x400
_SYMBOLS, _RELOCATIONS, _NOBITS = 2, 4, 8
_LEFT_OUT = 7, 15, 0x70000001  # notes, functions that are called at the end, how to unwind
_MOST_BYTES = 64 << 20


class LinkError(ValueError):
    """An object has something that is not known here."""


class Relocation(NamedTuple):
    """What is written at ``place`` of a section: by ``kind`` (R_X86_64_*), from the symbol of a number."""

    place: int
    kind: int
    symbol: int
    addend: int


@dataclass(eq=False)
class Section:
    """Some of what is loaded; a linker gives it an ``address``."""

    flags: int
    content: bytearray
    alignment: int
    relocations: list[Relocation] = field(default_factory=list)
    address: int = 0


@dataclass(eq=False)
class Symbol:
    """A place in a section that is loaded; or, if it is not ``is_defined``, one of another library."""

    name: bytes
    is_defined: bool
    section: Section | None
    offset: int

    @property
    def address(self) -> int:
        if self.section is None:
            raise LinkError(f"{self.name.decode(errors='replace')} is used, but not loaded")
        return self.section.address + self.offset


def section_headers(image: bytes) -> list[tuple[int, ...]]:
    """The fields of all section headers of an object, a library or a cubin."""
    *_, start, _, _, _, _, _, count, _ = struct.unpack_from(HEADER, image)
    return [struct.unpack_from(SECTION, image, start + 64 * index) for index in range(count)]


def read_object(image: bytes) -> tuple[list[Section], list[Symbol]]:
    """The sections that are loaded, and all symbols.

    What says how to unwind, and what is called when a library is unloaded, is left out.

    Raises:
        LinkError: it is no relocatable object for x86-64, or has a section of a sort that is not known here.
        struct.error, IndexError, ValueError: it is damaged.
    """
    identity, kind, machine, *_ = struct.unpack_from(HEADER, image)
    if (identity[:7], kind, machine) != (IDENTITY[:7], _RELOCATABLE, X86_64):
        raise LinkError("it is no relocatable object for x86-64")
    headers = section_headers(image)
    sections: dict[int, Section] = {}
    for index, (_, kind, flags, _, offset, size, _, _, alignment, _) in enumerate(headers):
        if not flags & _ALLOC or kind in _LEFT_OUT:
            continue
        if kind not in (PROGBITS, _NOBITS) or flags & _TLS or size > _MOST_BYTES or alignment > PAGE:
            raise LinkError(f"section {index} is of a sort that is not known")
        content = bytearray(size) if kind == _NOBITS else bytearray(image[offset : offset + size])
        sections[index] = Section(flags, content, max(alignment, 1))
    symbols: list[Symbol] = []
    for _, kind, _, _, offset, size, strings, about, _, _ in headers:
        rows = image[offset : offset + size]
        if kind == _SYMBOLS:
            names = headers[strings][4]
            for name, _, _, section, value, _ in struct.iter_unpack(SYMBOL, rows):
                text = image[names + name : image.index(b"\0", names + name)]
                symbols.append(Symbol(text, section != 0, sections.get(section), value))
        elif kind == _RELOCATIONS and about in sections:
            sections[about].relocations = [
                Relocation(place, info & 0xFFFFFFFF, info >> 32, addend)
                for place, info, addend in struct.iter_unpack(RELOCATION, rows)
            ]
    return list(sections.values()), symbols
