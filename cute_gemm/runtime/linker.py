"""From the object that the DSL exports to a shared library, which the system's loader maps: no DSL is needed.

The DSL links its objects by a linker of its own, for which all of it is imported. An object with one function
needs little of what a linker does: sections get their places, relocations their values, and a table lists for
the loader what is taken from other libraries. Whatever is not foreseen here raises :class:`LinkError`.

The library asks for :data:`NEEDED` by name; they have to be loaded before (:mod:`cute_gemm.runtime.linked`).
It is not made to be unloaded: what the object would do then is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from .elf import (
    DYNAMIC,
    EXECUTE,
    HEADER,
    IDENTITY,
    PAGE,
    RELOCATION,
    SEGMENT,
    SYMBOL,
    WRITE,
    X86_64,
    LinkError,
    Section,
    Symbol,
    read_object,
)

NEEDED = "libcute_dsl_runtime.so", "libtvm_ffi.so"
"""Names (DT_SONAME) of the libraries that have what objects take from outside."""

_SHARED = 3
# R_X86_64_*: an address, or that of the table of addresses (GOT), or a place in the table.
_GOTOFF64, _GOT64, _GOTPC64 = 25, 27, 29
_GLOB_DAT, _RELATIVE = 6, 8
_NUM_SEGMENTS = 6


def link(image: bytes, function: str) -> bytes:
    """The shared library of an object.

    Args:
        image: a relocatable ELF object for x86-64 of position-independent code, of the large code model.
        function: what the library shows of it.

    Raises:
        LinkError: it is no such object, it lacks the function, or something in it is not known here.
    """
    try:
        sections, symbols = read_object(image)
        return _Library(sections, symbols, function.encode()).image()
    except LinkError:
        raise
    except (struct.error, IndexError, ValueError) as error:
        raise LinkError(f"the object is damaged: {error}") from error


class _Library:
    """Lays out: tables and what is only read; code; addresses and what lists the tables; what is written.

    Places are the same in the file and in memory.
    """

    def __init__(self, sections: list[Section], symbols: list[Symbol], function: bytes) -> None:
        self.sections, self.symbols = sections, symbols
        shown = next((each for each in symbols if each.name == function and each.section), None)
        if shown is None:
            raise LinkError(f"it has no function {function.decode()}")
        used = (symbols[each.symbol] for of in sections for each in of.relocations if each.kind == _GOT64)
        self.slots = {symbol: index for index, symbol in enumerate(dict.fromkeys(used))}
        self.taken = [symbol for symbol in self.slots if not symbol.is_defined]
        self.shown = shown
        self.strings, self.names = b"\0", dict[bytes, int]()
        for name in (*(each.encode() for each in NEEDED), *(each.name for each in (*self.taken, shown))):
            self.names[name] = len(self.strings)
            self.strings += name + b"\0"

    def image(self) -> bytes:
        """The whole file."""
        count = len(self.taken) + 2
        # A hash table of a single chain, from the last symbol to the first.
        hashes = struct.pack(f"<{count + 3}I", 1, count, count - 1, *(max(i - 1, 0) for i in range(count)))
        places, at = [], struct.calcsize(HEADER) + _NUM_SEGMENTS * struct.calcsize(SEGMENT)
        for size in (24 * count, len(self.strings), len(hashes), 24 * len(self.slots)):
            places.append(at)
            at = _up(at + size, 8)
        code = _up(self._lay_out(at, lambda flags: not flags & (WRITE | EXECUTE)), PAGE)
        self.table = _up(self._lay_out(code, lambda flags: bool(flags & EXECUTE)), PAGE)
        entries = self.table + 8 * len(self.slots)
        dynamic = self._dynamic(*places)
        writable = _up(entries + len(dynamic), PAGE)
        end = self._lay_out(writable, lambda flags: flags & (WRITE | EXECUTE) == WRITE)
        segments = (
            (1, 4, 0, code),
            (1, 5, code, self.table - code),
            (1, 6, self.table, end - self.table),
            (2, 6, entries, len(dynamic)),
            # Addresses are only read once the loader has filled them in, and no stack is executed.
            (0x6474E552, 4, self.table, writable - self.table),
            (0x6474E551, 6, 0, 0),
        )
        head = struct.pack(HEADER, IDENTITY, _SHARED, X86_64, 1, 0, 64, 0, 0, 64, 56, len(segments), 64, 0, 0)
        for kind, rights, start, size in segments:
            head += struct.pack(SEGMENT, kind, rights, start, start, start, size, size, PAGE)
        image = bytearray(end)
        parts = head, self._symbol_table(), self.strings, hashes, self._fixes(), dynamic
        for start, part in zip((0, *places, entries), parts, strict=True):
            image[start : start + len(part)] = part
        for section in self.sections:
            self._relocate(section)
            image[section.address : section.address + len(section.content)] = section.content
        return bytes(image)

    def _lay_out(self, at: int, belongs: Callable[[int], bool]) -> int:
        """Gives addresses from ``at`` on to the sections with flags that belong there; returns the end."""
        for section in self.sections:
            if belongs(section.flags):
                section.address = _up(at, section.alignment)
                at = section.address + len(section.content)
        return at

    def _relocate(self, section: Section) -> None:
        for place, kind, number, addend in section.relocations:
            symbol = self.symbols[number]
            if kind == _GOT64:
                value = 8 * self.slots[symbol]
            elif kind == _GOTOFF64:
                value = symbol.address - self.table
            elif kind == _GOTPC64:
                value = self.table - section.address - place
            else:
                raise LinkError(f"it has relocations of kind {kind}, which is not known")
            struct.pack_into("<q", section.content, place, value + addend)

    def _symbol_table(self) -> bytes:
        table = bytes(struct.calcsize(SYMBOL))
        for symbol in self.taken:
            table += struct.pack(SYMBOL, self.names[symbol.name], 0x10, 0, 0, 0, 0)
        return table + struct.pack(SYMBOL, self.names[self.shown.name], 0x12, 0, 1, self.shown.address, 0)

    def _fixes(self) -> bytes:
        """What the loader does to the table of addresses."""
        fixes = b""
        for symbol, slot in self.slots.items():
            place = self.table + 8 * slot
            if symbol.is_defined:
                fixes += struct.pack(RELOCATION, place, _RELATIVE, symbol.address)
            else:
                number = self.taken.index(symbol) + 1
                fixes += struct.pack(RELOCATION, place, number << 32 | _GLOB_DAT, 0)
        return fixes

    def _dynamic(self, symbols: int, strings: int, hashes: int, fixes: int) -> bytes:
        """Where the tables are, in DT_*; all addresses are to be found at once."""
        needed = [(1, self.names[each.encode()]) for each in NEEDED]
        sizes = [(10, len(self.strings)), (11, 24), (8, 24 * len(self.slots)), (9, 24)]
        tables = [(4, hashes), (5, strings), (6, symbols), (7, fixes)]
        now = [(30, 8), (0x6FFFFFFB, 1), (0, 0)]
        return b"".join(struct.pack(DYNAMIC, *each) for each in (*needed, *tables, *sizes, *now))


def _up(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment
